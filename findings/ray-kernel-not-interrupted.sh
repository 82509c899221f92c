#!/usr/bin/env bash
# ray 2.60.0, jupyter_client 8.10.0, ipykernel 7.4.0, Python 3.11; Linux, no GPU
#
# Ray's workers run tasks and actors with SIGINT blocked, and a process that these start inherits that. So a Jupyter kernel
# that is started there cannot be interrupted: `interrupt_kernel` returns as if it had, and the cell runs on. A time limit
# for cells that counts on the interrupt does not hold there.
#
# Seen: a cell of 8 s that is interrupted after 2 s ends after 2 s in a process, after 8 s in a task and in an actor
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0 jupyter_client==8.10.0 ipykernel==7.4.0
cat > "$folder/interrupt.py" <<'PY'
import signal
import time

import ray
from jupyter_client.manager import start_new_kernel

CELL_S, AFTER_S = 8.0, 2.0


def interrupt_a_cell():
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        started = time.monotonic()
        asked = client.execute(f"import time; time.sleep({CELL_S})")
        time.sleep(AFTER_S)
        manager.interrupt_kernel()
        while client.get_shell_msg(timeout=60)["parent_header"].get("msg_id") != asked:
            pass
        return time.monotonic() - started, signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        manager.shutdown_kernel(now=True)


@ray.remote
def task():
    return interrupt_a_cell()


@ray.remote
class Actor:
    def call(self):
        return interrupt_a_cell()


if __name__ == "__main__":
    print("process", *interrupt_a_cell())
    ray.init(num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, logging_level="ERROR")
    print("task", *ray.get(task.remote()))
    print("actor", *ray.get(Actor.remote().call.remote()))
PY
PATH="$folder/venv/bin:$PATH" "$folder/venv/bin/python" "$folder/interrupt.py" > "$folder/seen" 2> "$folder/log" || { tail -20 "$folder/log"; exit 1; }
while read -r where seconds blocked; do
    echo "$where: the cell ended after ${seconds%.*} s, SIGINT blocked: $blocked"
    eval "$where=${seconds%.*} ${where}_blocked=$blocked"
done < "$folder/seen"
test "$process" -le 5 && test "$task" -ge 8 && test "$actor" -ge 8 && test "$task_blocked$actor_blocked" = TrueTrue
