"""`survey-gampen submit`: the client itself as a batch job that goes on until the run is done.

The script runs ``survey-gampen run`` on one core. Before its time is over it asks the client to
stop, which cancels the workers' jobs and leaves the run as it is (exit code 75), and submits itself
again. It does the same after any other cause outside the data, three times in a row at most.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from survey_gampen.cluster import certificates
from survey_gampen.cluster.jobqueue import Job
from survey_gampen.cluster.jobs import make_job
from survey_gampen.cluster.profile import Profile
from survey_gampen.errors import InputError, OutsideFault

_SCRIPT = "driver.sh"
#: Read by `status` too (run/status.py).
_CHAIN = "driver.log"
_TRIES = "driver.tries"
#: Before its walltime a driver stops its client: time to cancel jobs and to write the index [s],
#: and at most such a part of the walltime.
_WARNING, _PART = 120, 4
_IDS = ("SLURM_JOB_ID", "PBS_JOBID", "JOB_ID", "LSB_JOBID", "OAR_JOB_ID")
_AGAIN = {
    "slurm": "sbatch {script}",
    "pbs": "qsub {script}",
    "moab": "msub {script}",
    "sge": "qsub {script}",
    "lsf": "bsub < {script}",
    "oar": "oarsub -S {script}",
}

_BODY = """
{prologue}
cd {cwd}
home={home}
note() {{ echo "$(date '+%Y-%m-%d %H:%M:%S') job ${{{ids}}} $*" >> "$home"/{chain}; }}
note "begins on $(hostname)"
# Not every batch system warns: the clock does it too.
timeout --preserve-status --signal=TERM {seconds} {command} &
client=$!
stopped=
stop() {{ stopped=yes; kill -TERM $client 2>/dev/null; }}
trap stop TERM INT USR1 USR2 XCPU
wait $client
code=$?
while kill -0 $client 2>/dev/null; do wait $client; code=$?; done
[ $SECONDS -lt {seconds} ] || stopped=yes
if [ $code != 75 ]; then note "is done, exit code $code"; exit $code; fi
# 75 where nobody asked for it, for a full disk, say: three times in a row is enough.
tries=0
[ -n "$stopped" ] || tries=$(( $(cat "$home"/{tries} 2>/dev/null || echo 0) + 1 ))
echo $tries > "$home"/{tries}
if [ $tries -ge 3 ]; then
  note "stopped for a cause outside the data, $tries times: see its log"
  echo 0 > "$home"/{tries}
  exit 75
fi
note "goes on in another job: $({again} 2>&1)"
exit 75
"""


def script(profile: Profile, words: Sequence[str], out: Path) -> tuple[Job, str]:
    """Return the job of a driver, and its whole script.

    Parameters
    ----------
    profile : Profile
        Of a batch system: that of the workers, and what it says of the driver.
    words : sequence of str
        Arguments of ``survey-gampen run``.
    out : Path
        Folder of the run.

    Raises
    ------
    InputError
        If the profile's batch system can't do that.
    """
    if profile.batch is None or profile.kind not in _AGAIN:
        raise InputError(
            f"a driver can't be submitted with a profile of kind {profile.kind}: choose one of"
            f" {', '.join(_AGAIN)}, or type run where jobs are submitted"
        )
    home = out.absolute() / certificates.FOLDER
    ask = profile.batch.driver
    named = replace(profile, batch=replace(profile.batch, name=f"{profile.batch.name}-driver"))
    job = make_job(named, ask, {}, logs=home / "logs")
    # A profile's own may be several words: `apptainer exec image.sif python3`.
    python = profile.batch.python or shlex.quote(sys.executable)
    walltime = ask.walltime or 0
    seconds = max(1, walltime - min(_WARNING, walltime // _PART))
    header = job.job_header
    if profile.kind == "slurm":
        header += f"\n#SBATCH --signal=B:USR1@{max(1, walltime - seconds)}"
    body = _BODY.format(
        prologue="\n".join(profile.batch.prologue),
        cwd=shlex.quote(os.getcwd()),
        ids=":-${".join(_IDS) + "}" * (len(_IDS) - 1),
        home=shlex.quote(str(home)),
        chain=_CHAIN,
        tries=_TRIES,
        command=f"{python} {shlex.join([*_RUN, *words])}",
        seconds=seconds,
        again=_AGAIN[profile.kind].format(script=f'"$home"/{_SCRIPT}'),
    )
    return job, f"{job.shebang}\n\n{header}\n{body}"


_RUN = ("-m", "survey_gampen.cli", "run")


def submit(profile: Profile, words: Sequence[str], out: Path) -> str:
    """Write the script into the run's folder and submit it; return the job's id.

    Raises
    ------
    InputError
        If the batch system refuses it.
    OutsideFault
        If it can't be asked.
    """
    job, text = script(profile, words, out)
    home = out.absolute() / certificates.FOLDER
    (home / "logs").mkdir(parents=True, exist_ok=True)
    path = home / _SCRIPT
    path.write_text(text)
    path.chmod(0o700)
    try:
        said = asyncio.run(asyncio.wait_for(job._submit_job(str(path)), 60))
        return str(job._job_id_from_submit_output(said))
    except (RuntimeError, ValueError) as error:
        from survey_gampen.cluster.fleet import said_by

        raise InputError(f"{profile.kind} refuses the driver ({said_by(error)})") from error
    except (OSError, TimeoutError) as error:
        raise OutsideFault(f"the driver could not be submitted: {error}") from error
