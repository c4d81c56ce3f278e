"""The README's tour works as it is printed: its commands are run, and what it says they answer is what they answer."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
STOP_SECONDS = 60


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tally = str(Path(sys.executable).with_name("tally"))
    command = [tally, "serve", "--dev", "--port", str(port), "--data-dir", str(tmp_path_factory.mktemp("books"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service:
        assert service.stdout is not None
        next(line for line in service.stdout if str(port) in line)  # the banner comes when it answers
        yield f"127.0.0.1:{port}"
        service.terminate()
        assert service.wait(timeout=STOP_SECONDS) == 0


def curl(block: str, address: str) -> list[Any]:
    """Runs a block of the README and gives what its commands answer, a JSON value each."""
    script = block.replace("localhost:8001", address).replace("curl ", "curl --fail-with-body -w '\\n' ")
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def test_the_tour(address: str) -> None:
    assert shutil.which("curl"), "the tour needs curl: apt-get install curl"
    blocks = [block for block in BLOCK.findall(README.read_text()) if "curl" in block]
    expected = [json.loads(line[2:]) for block in blocks for line in block.splitlines() if line.startswith("# {")]
    answers = [answer for block in blocks for answer in curl(block, address)]

    assert expected
    for value in expected:
        assert value in answers

    ada = next(answer for answer in answers if answer.get("key") == "ada" and answer.get("balances"))
    # 12,000 tokens, 10,000 of them free: 2,000 at 0.0025 a thousand
    (balance,) = ada["balances"]
    assert balance == {
        "asset": "CREDIT",
        "balance": "9.995",
        "held": "0",
        "available": "9.995",
        "used": "0.005",
        "granted": "10",
    }
    assert [answer["holds"] for answer in answers if "holds" in answer] == [True]
    (history,) = [answer for answer in answers if "timestamps" in answer]
    assert history["credits"] == ["credits", -5.0]
    assert history["metrics"] == ["metrics", "cpu"]


def test_sending_the_batch_again_changes_nothing(address: str) -> None:
    batch = next(block for block in BLOCK.findall(README.read_text()) if "cloudevents-batch" in block)
    events = "curl" + batch.split("curl")[-1]
    curl(events, address)
    (again,) = curl(events, address)
    assert again == {"accepted": 0, "duplicates": 2, "unpriced": 0, "rejected": []}


def test_an_unknown_address_is_a_problem(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{address}/api/v1/nothing-here")
    assert refused.value.code == 404
    assert json.load(refused.value)["code"] == "not_found"
