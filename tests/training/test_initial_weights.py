"""`model.init_from`: a network begins with the weights of a file, or says why it cannot."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from dmeta.cli.evaluate import evaluate
from dmeta.cli.load import load
from dmeta.models.network import Network
from dmeta.runs.checkpoint import open_checkpoints, read_checkpoint, steps_in
from dmeta.runtime.local import LocalRuntime
from dmeta.training.frozen_weights import digest_of
from dmeta.training.initial_weights import read_weights, with_weights
from dmeta.training.resume import starting_point
from dmeta.training.run import run_session
from dmeta.training.session import Session
from dmeta.training.setup import Run, prepare
from tests.bilevel.problems import network
from tests.conftest import tiny_config


def weights(seed: int = 5, **options: Any) -> dict[str, Tensor]:
    """Those of the network of `tiny_config`, of another seed."""
    made = prepare(tiny_config(Path("unused"), seed=seed, **options)).algorithm.network
    return made.init_params()


def started(tmp_path: Path, file: Path | str, **changes: Any) -> Run:
    return prepare(tiny_config(tmp_path / "run", model__init_from=str(file), **changes))


def trained(run: Run, run_dir: Path) -> Run:
    run_session(Session(run, run_dir, lambda r: LocalRuntime(r.work, r.outer, "cpu", 1)))
    return run


def saved(tmp_path: Path, form: str, tensors: dict[str, Tensor]) -> Path:
    """A file of a form that people have."""
    if form == "safetensors":
        safetensors.torch.save_file(tensors, tmp_path / "w.safetensors")
        return tmp_path / "w.safetensors"
    content: Any = tensors
    if form == "in a dictionary":
        content = {"epoch": 3, "state_dict": tensors}
    if form == "data parallel":
        content = {f"module.{name}": tensor for name, tensor in tensors.items()}
    torch.save(content, tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.mark.parametrize("form", ["safetensors", "torch", "in a dictionary", "data parallel"])
def test_a_run_begins_with_the_weights_of_a_file(tmp_path: Path, form: str) -> None:
    tensors = weights()
    run = started(tmp_path, saved(tmp_path, form, tensors))
    initial = run.outer.initial
    expected = run.work.layout.flatten(tensors).numpy()
    assert (initial == expected).all()
    assert (prepare(tiny_config(tmp_path / "run")).outer.initial != expected).any()
    assert run.config.model.options["init_sha256"] == digest_of(tensors)
    assert (run.algorithm.network.init_params().keys()) == tensors.keys()


def test_a_run_begins_with_the_last_weights_of_another_or_of_one_of_its_checkpoints(
    tmp_path: Path,
) -> None:
    first = tmp_path / "first"
    trained(prepare(tiny_config(first, checkpoint__every=2, checkpoint__keep=9)), first)
    storage = open_checkpoints(first, None)
    earlier = steps_in(storage)[0]
    assert earlier < 6
    one = first / "checkpoints" / f"step-{earlier:08d}"
    for step, where in ((6, first), (earlier, one)):
        run = started(tmp_path, where)
        learned = read_checkpoint(storage, step).meta_params()
        assert (run.outer.initial == run.work.layout.flatten(learned).numpy()).all()
    learned = tmp_path / "rates"
    trained(prepare(tiny_config(learned, algorithm__learn_inner_lr="per_tensor")), learned)
    assert read_weights(str(learned)).keys() == weights().keys()  # without the learned rates


def test_the_digest_not_the_path_is_what_the_run_is_of(tmp_path: Path) -> None:
    tensors = weights()
    one = saved(tmp_path, "torch", tensors)
    other = saved(tmp_path, "safetensors", tensors)
    prints = {started(tmp_path, file).config.fingerprint() for file in (one, other)}
    assert len(prints) == 1
    assert prints != {prepare(tiny_config(tmp_path / "run")).config.fingerprint()}
    changed = {n: t + (n == next(iter(tensors))) for n, t in tensors.items()}
    torch.save(changed, one)
    assert started(tmp_path, one).config.fingerprint() not in prints
    with pytest.raises(
        ValueError, match=r"model\.init_from must hold the weights .*model\.init_sha256=null"
    ):
        started(tmp_path, one, model__init_sha256=digest_of(tensors))


def test_a_run_is_not_resumed_with_other_weights_and_needs_none_once_trained(
    tmp_path: Path,
) -> None:
    file, run_dir = saved(tmp_path, "torch", weights()), tmp_path / "run"
    trained(started(tmp_path, file), run_dir)
    again = started(tmp_path, file, resume=True)
    assert starting_point(again.config, run_dir).progress.step == 6
    torch.save(weights(seed=8), file)
    other = started(tmp_path, file, resume=True)
    with pytest.raises(ValueError, match=r"different: model\.init_sha256"):
        starting_point(other.config, run_dir)
    file.unlink()
    assert load(run_dir).step == 6
    assert evaluate(run_dir, num_tasks=2).num_tasks == 2


def test_a_run_without_a_file_has_the_fingerprint_that_it_always_had(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    options = {k: v for k, v in config.model.options.items() if not k.startswith("init_")}
    earlier = dataclasses.replace(config.model, options=options)
    assert dataclasses.replace(config, model=earlier).fingerprint() == config.fingerprint()
    assert json.dumps(config.as_mapping())


def conv4(num_outputs: int | None) -> Network:
    return network("conv4", num_outputs)[0]


def test_parts_that_are_named_keep_their_values() -> None:
    wide, narrow = conv4(7), conv4(3)
    tensors = {n: p + 1 for n, p in wide.init_params().items()}
    got = with_weights(narrow, tensors, ["head.*"], "FILE").init_params()
    for name, before in narrow.init_params().items():
        expected = before if name.startswith("head") else tensors[name]
        assert torch.equal(got[name], expected)
    embedding = with_weights(conv4(None), tensors, ["head.*"], "FILE").init_params()
    assert all(torch.equal(p, tensors[n]) for n, p in embedding.items())


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (7, 3, r"FILE \(of other shapes: head.weight \[7, 8\] instead of \[3, 8\], head.bias"),
        (3, None, r"\(unexpected: head.weight, head.bias\).*: model.init_skip=\[head.\*\]"),
        (None, 3, r"\(missing: head.weight, head.bias\).*: model.init_skip=\[head.\*\]"),
    ],
)
def test_what_does_not_fit_is_named(source: Any, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_weights(conv4(target), conv4(source).init_params(), [], "FILE")


def test_the_message_names_a_kind_of_parameter_that_the_file_has_not() -> None:
    plain = conv4(3)
    normed = Network.of(plain.module, batch_norm="task_norm")
    others = {**plain.init_params(), "fc.weight": torch.ones(1)}
    for tensors, more in ((plain.init_params(), ""), (others, r",fc\.\*")):
        message = rf"model\.init_skip=\[\*\.alpha_scale,\*\.alpha_offset{more}\]$"
        with pytest.raises(ValueError, match=message):
            with_weights(normed, tensors, [], "FILE")


def test_running_statistics_are_not_needed_and_weights_must_be_finite() -> None:
    at = conv4(3)
    tensors = {**at.init_params(), "block1.1.running_mean": torch.ones(2)}
    with_weights(at, tensors, [], "FILE")
    tensors["head.bias"] = torch.full((3,), torch.nan)
    with pytest.raises(ValueError, match="must have finite weights, got NaN or infinity in head"):
        with_weights(at, tensors, [], "FILE")


class Unsafe:
    """Would run code if it were unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit",)


@pytest.mark.parametrize("content", [Unsafe(), [1, 2], {"a": 3}, {1: torch.ones(1)}])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "w.pth"
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"model\.init_from must .*; save it with torch\.save"):
        read_weights(str(file))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"no such thing", b"hello", b"\x89PNG\r\n", b"e\0\0"])
def test_a_file_of_no_weights_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    message = r"must be a \.safetensors file or a torch file of a state dict .*which is none; save"
    with pytest.raises(ValueError, match=message):
        read_weights(str(file))


def test_a_place_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.init_from must be the folder of a run"):
        read_weights(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"model\.init_from must be the folder of a run"):
        read_weights(str(tmp_path))


def test_weights_are_read_from_an_address(tmp_path: Path) -> None:
    import fsspec

    tensors = weights()
    content = safetensors.torch.save(tensors)
    fsspec.filesystem("memory").pipe("/here/w.safetensors", content)
    got = read_weights("memory://here/w.safetensors")
    assert digest_of(got) == digest_of(tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__init_skip": ["head.*"]}, r"model\.init_skip must not be set without"),
        ({"model__init_sha256": "abc"}, r"model\.init_sha256 must not be set without"),
    ],
)
def test_keys_of_a_file_that_is_not_given_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(tiny_config(Path("unused"), **changes))


def test_a_pattern_of_nothing_is_named_and_the_others_kept() -> None:
    made = conv4(None)
    message = r"got 'head\.\*', which none has .*or remove it: model\.init_skip=\[block1\.\*\]"
    with pytest.raises(ValueError, match=message):
        with_weights(made, made.init_params(), ("head.*", "block1.*"), "a file")


@pytest.mark.parametrize(("skip", "message"), [("typo.*", "which none has"), ("*", "leaves out")])
def test_patterns_that_leave_out_nothing_or_all_are_refused(skip: str, message: str) -> None:
    made, _ = network("conv4", 3)
    with pytest.raises(ValueError, match=message):
        with_weights(made, made.init_params(), (skip,), "a file")
