"""From a profile to a Dask cluster, on this machine or of a batch system's jobs.

What a YAML file asks for (`profile.py`, read by `load.py`) is made to run in `start.py`; `crew.py`
gives tasks to the workers. Workers come from `local.py` (this machine), from `fleet.py` (jobs,
looked after; `jobs.py` writes their scripts, `posted.py` hands them over, `words.py` asks the batch
system about them) or from `allocation.py` (the tasks of one srun); `present.py` tells who is there.
On each worker `worker.py` and `gpu.py` see to it that it is what it was promised to be. `driver.py`
puts the client itself into a job, `page.py` shows how far it is, `verbs.py` is `survey-gampen
cluster`.
"""
