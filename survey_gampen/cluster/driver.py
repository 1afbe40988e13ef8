"""`survey-gampen submit`: the client itself as a batch job that goes on until the run is done.

The script runs ``survey-gampen run`` on one core. Before its time is over it asks the client to
stop, which cancels the workers' jobs and leaves the run as it is (exit code 75), and submits itself
again. It does the same after any other cause outside the data, three times in a row at most. Who
cancels the job means it: then none follows.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from survey_gampen.cluster.certificates import check_path
from survey_gampen.cluster.jobqueue import Job
from survey_gampen.cluster.jobs import SUBMIT, make_job
from survey_gampen.cluster.posted import hand_over
from survey_gampen.cluster.profile import Profile
from survey_gampen.errors import GampenError, InputError
from survey_gampen.run.claim import STALE_SECONDS
from survey_gampen.run.claimfile import JOB_VARIABLES
from survey_gampen.run.layout import RunDir

#: Before its walltime a driver stops its client: time to cancel jobs and to write the index [s],
#: and at most such a part of the walltime.
_WARNING, _PART = 300, 4
#: Seconds between two tries of a submission that failed.
_PAUSE = 30

_BODY = """
{prologue}
cd {cwd} || exit 2
log={log}
note() {{ echo "$(date '+%Y-%m-%d %H:%M:%S') job ${{{ids}}} $*" >> "$log"; }}
pause() {{ sleep "$1" & wait $!; }}  # a signal ends the wait, not the job

# The client is asked to stop once: asked again, it would drop what it is putting in order.
asked=
ask() {{ [ -n "$asked" ] || {{ asked=$1; kill -TERM "$client" 2>/dev/null; }}; }}
trap 'ask warned' USR1 USR2 XCPU
trap 'ask cancelled' TERM INT

run_client() {{
  {command} &
  client=$!
  [ -z "$asked" ] || kill -TERM $client
  while kill -0 $client 2>/dev/null; do
    [ $SECONDS -lt {seconds} ] || ask warned  # not every batch system warns
    pause 2
  done
  wait $client
  code=$?
}}

note "begins on $(hostname)"
run_client
# A client that was killed in the job before may still look alive.
if [ $code = 2 ] && [ -z "$asked" ] && [ "$(grep -c ' begins on ' "$log")" -gt 1 ]; then
  note "could not begin; tries again in {stale} s"
  pause {stale}
  [ -n "$asked" ] || run_client
fi
[ $code -lt 128 ] || code=75  # it was killed
[ $code = 75 ] || {{ note "is done, exit code $code"; rm -f "$log.tries"; exit $code; }}
[ "$asked" != cancelled ] || {{ note "was cancelled: submit the same again to go on"; exit 75; }}

# 75 where nobody asked for it, for a full disk, say: three times in a row is enough.
tries=0
[ -n "$asked" ] || tries=$(( $(cat "$log.tries" 2>/dev/null || echo 0) + 1 ))
echo $tries > "$log.tries"
if [ $tries -ge 3 ]; then
  note "stopped for a cause outside the data, $tries times: see its log"
  rm -f "$log.tries"
  exit 75
fi
for try in 1 2 3 4 5; do
  if said=$({again} 2>&1); then note "goes on in another job: $said"; exit 75; fi
  note "could not be submitted: $said"
  [ $try = 5 ] || pause {pause}
done
note "gives up: submit the same again to go on"
exit 75
"""


def check(profile: Profile, run: RunDir) -> None:
    """See whether a driver can be submitted from here, before anything is written.

    Raises
    ------
    InputError
        If the profile's batch system can't do that, or is not here.
    """
    if profile.batch is None or profile.kind == "htcondor":  # whose scripts hold no shell
        can = (kind for kind in SUBMIT if kind != "htcondor")
        raise InputError(
            f"a driver can't be submitted with a profile of kind {profile.kind}: choose one of"
            f" {', '.join(can)}, or type run where jobs are submitted"
        )
    check_path(run.home)
    command = SUBMIT[profile.kind].split()[0]
    if not shutil.which(command):
        raise InputError(
            f"there is no {command} on this machine: type it where jobs are submitted, or choose"
            " another --cluster"
        )


def script(profile: Profile, words: Sequence[str], run: RunDir) -> tuple[Job, str]:
    """Return the job of a driver, and its whole script.

    Parameters
    ----------
    profile : Profile
        Of a batch system: that of the workers, and what it says of the driver.
    words : sequence of str
        Arguments of ``survey-gampen run``.
    run : RunDir
    """
    assert profile.batch is not None
    batch = profile.batch
    named = replace(profile, batch=replace(batch, name=f"{batch.name}-driver"))
    job = make_job(named, batch.driver, {}, logs=run.job_logs)
    # A profile's own may be several words: `apptainer exec image.sif python3`.
    python = batch.python or shlex.quote(sys.executable)
    walltime = batch.driver.walltime or 0
    seconds = max(1, walltime - min(_WARNING, walltime // _PART))
    header = job.job_header
    if profile.kind == "slurm":
        header += f"\n#SBATCH --signal=B:USR1@{max(1, walltime - seconds)}"
    prologue = [*(batch.from_site.get("job-script-prologue") or ()), *batch.prologue]
    body = _BODY.format(
        prologue="\n".join(prologue),
        cwd=shlex.quote(os.getcwd()),
        ids=":-${".join(JOB_VARIABLES) + "}" * (len(JOB_VARIABLES) - 1),
        log=shlex.quote(str(run.drivers)),
        command=f"{python} {shlex.join(['-m', 'survey_gampen.cli', 'run', *words])}",
        seconds=seconds,
        stale=f"{STALE_SECONDS + 10:.0f}",
        again=_submission(profile, run),
        pause=_PAUSE,
    )
    return job, f"{job.shebang}\n\n{header}\n{body}"


def _submission(profile: Profile, run: RunDir) -> str:
    return SUBMIT[profile.kind].format(script=shlex.quote(str(run.driver_script)))


def submit(profile: Profile, words: Sequence[str], run: RunDir) -> str:
    """Write the script into the run's folder and submit it; return the job's id.

    Raises
    ------
    InputError
        If the batch system refuses it.
    OutsideFault
        If it can't be asked.
    """
    check(profile, run)
    first = not run.cluster.exists()
    run.job_logs.mkdir(parents=True, exist_ok=True)
    try:
        job, text = script(profile, words, run)
        run.driver_script.write_text(text)
        run.driver_script.chmod(0o700)
        submission = job._call([_submission(profile, run)], shell=True)
        said = hand_over(job, "the driver", submission, profile)
        number = str(job._job_id_from_submit_output(said))
    except (GampenError, OSError, ValueError):
        if first:
            shutil.rmtree(run.cluster, ignore_errors=True)
        raise
    with run.drivers.open("a") as log:
        log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} job {number} submitted\n")
    return number
