"""A run that is told to end, as Slurm and Kubernetes tell it. That it goes on after worse is shown in tests/chaos."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

ROW = '"[""x"", ""y""]"'


def test_sigterm_ends_a_run_as_ctrl_c_does(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for name in ("labeled", "unlabeled", "test"):
        (tmp_path / f"{name}.csv").write_text(f"question,options,answer\nq {name},{ROW},A\n")
    (tmp_path / "c.yaml").write_text(
        f"""
        name: run
        storage: {tmp_path}/runs
        model: {{base: {tmp_path}/model}}
        data: {{labeled: {tmp_path}/labeled.csv, unlabeled: {tmp_path}/unlabeled.csv, test: {tmp_path}/test.csv}}
        """
    )
    command = [sys.executable, "-m", "semievol", "run", f"{tmp_path}/c.yaml", "--until", "ingest"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    status = tmp_path / "runs" / "run" / "status.json"
    try:
        while run.poll() is None and not status.exists():
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 130, said
    assert said == "semievol: interrupted; run the same command again to go on\n"
    assert json.loads(status.read_text())["state"] == "interrupted"
    assert not (status.parent / "driver.json").exists()  # so that the same command need not wait
