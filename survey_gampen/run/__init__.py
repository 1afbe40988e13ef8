"""The main job: plan, partitions from end to end, window, retries, quarantine."""
