"""From a profile to a Dask cluster, on this machine or of a batch system's jobs.

`profile.py` says what a YAML file asks for; `start.py` makes it run; `crew.py` gives tasks to the
workers. Of batch systems: `jobs.py` writes the scripts, `fleet.py` looks after the jobs, `words.py`
asks the batch system about them. On a worker: `worker.py` and `gpu.py`.
"""
