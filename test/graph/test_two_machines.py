"""Arm and learner on two machines: two network namespaces, and a wire between them that loses packets."""

import os
import re
import shutil
import subprocess

import pytest
import yaml

from hilrl_data.bags import finished_episodes

from .conftest import SMALL, Launched

LOSS = 2  # percent, each way
_DROP = """table inet hilrl {
  chain lossy {
    type filter hook input priority 0;
    iifname "wire" numgen random mod 100 < %d counter drop
  }
}
"""
NFT = shutil.which("nft", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


def hosts_made(names):
    """Two network namespaces with a wire between them; None where this is not allowed."""
    if shutil.which("ip") is None or any(ip("netns", "add", name).returncode for name in names):
        return None
    first, second = names
    ip("link", "add", "wire", "netns", first, "type", "veth", "peer", "name", "wire", "netns", second)
    for number, name in enumerate(names, 1):
        ip("-n", name, "addr", "add", f"10.83.0.{number}/24", "dev", "wire")
        for device in ("lo", "wire"):
            ip("-n", name, "link", "set", device, "up")
        ip("-n", name, "route", "add", "224.0.0.0/4", "dev", "wire")
        if NFT:
            command = ["ip", "netns", "exec", name, NFT, "-f", "-"]
            subprocess.run(command, input=_DROP % LOSS, text=True, check=True)
    return tuple(("ip", "netns", "exec", name) for name in names)


@pytest.fixture(scope="module")
def hosts():
    names = [f"hilrl_{side}_{os.getpid()}" for side in ("arm", "learner")]
    try:
        made = hosts_made(names)
        if made is None:
            pytest.skip("making network namespaces needs `ip` (iproute2) and root")
        yield made
    finally:
        for name in names:
            ip("netns", "del", name)


@pytest.fixture(scope="module")
def two(hosts, own_domain, tmp_path_factory):
    """A finished run: the arm's side, the learner's side, which still waits for the next run."""
    arm, learner = (tmp_path_factory.mktemp(side) for side in ("arm", "learner"))
    own = {"pretrain_updates", "learning_starts"}
    common = [f"task:={SMALL['task']}", "discovery_range:=SUBNET"]
    sides = {
        "learner": [f"{key}:={SMALL[key]}" for key in own] + [f"runs_dir:={learner}"],
        "actor": [f"{key}:={value}" for key, value in SMALL.items() if key not in own and key != "task"]
        + [f"runs_dir:={arm}", "run:=far"],
    }
    started = {}
    try:
        for side, host in (("learner", hosts[1]), ("actor", hosts[0])):
            folder = {"learner": learner, "actor": arm}[side] / "far"
            started[side] = Launched(folder, ["launch", side, *common, *sides[side]], host)
        started["actor"].code = started["actor"].wait(240)
        yield started
    finally:
        for graph in started.values():
            graph.stop()


def test_the_run_ends_well_and_no_transition_is_lost(two):
    actor = two["actor"]
    assert actor.code == 0, actor.text()
    summary = actor.summary()
    assert summary["transitions_stored"] == summary["transitions_sent"] == summary["robot_steps"] > 200
    assert summary["updates"] == summary["transitions_stored"] - SMALL["learning_starts"]
    assert 0 < summary["weights_age_s"] < 60


def test_demonstrations_are_whole_on_both_machines(two):
    for side in two.values():
        assert len(finished_episodes(side.folder / "demos")) >= SMALL["demos"]


def test_what_was_learnt_lies_on_the_learners_machine(two):
    learner, actor = two["learner"], two["actor"]
    config = yaml.safe_load((learner.folder / "checkpoint" / "config.yaml").read_text())
    assert config["counters"]["updates"] == actor.summary()["updates"]
    assert not (actor.folder / "checkpoint").exists()
    assert not (learner.folder / "summary.json").exists()


def test_the_learner_waits_for_the_next_run(two):
    learner = two["learner"]
    learner.wait_for(lambda: "the session has gone: ends" in learner.text(), 60)
    learner.wait_for(lambda: "restarting it" in learner.text() and learner.node("learner"), 30)
    assert learner.process.poll() is None


@pytest.mark.skipif(NFT is None, reason="nft (nftables) is not installed: the wire lost nothing")
def test_the_wire_lost_packets(two, hosts):
    for host in hosts:
        rules = subprocess.run([*host, NFT, "list", "ruleset"], capture_output=True, text=True).stdout
        assert int(re.search(r"counter packets (\d+)", rules).group(1)) > 10
