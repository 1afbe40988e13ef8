"""What airspeed velocity follows from commit to commit; see CONTRIBUTING.md."""
