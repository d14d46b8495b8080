"""Checkpoints that are damaged, of something else, absurd or malicious: one sentence, exit 2, and nothing is run."""

import io
import os
import pickle
import struct
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from killed_runs import make_runs_small, same_bits
from torch import Tensor

from harness.checkpoint import load_checkpoint
from harness.errors import UserError

try:
    import resource
except ImportError:  # on Windows nothing tells how much memory was taken
    resource = None

TINY = ("--data", "synthetic", "--hidden-size", "8", "--epochs", "1", "--name", "run")


@pytest.fixture
def last(monkeypatch, in_project, run_main) -> Path:
    """last.pt of a small GRU run in this folder."""
    make_runs_small(monkeypatch.setattr)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nobody pulls the plug
    assert run_main("rnn_mnist", *TINY)[0] == 0
    return Path("runs/rnn_synthetic/run/last.pt").resolve()


@pytest.fixture
def refused(run_main, last):
    """Resume with what lies in last.pt now, and return the one sentence that refuses it."""

    def resume(*flags: str) -> str:
        before = last.read_bytes()
        peak = peak_memory()
        with warnings.catch_warnings(record=True) as warned:  # on standard error each would be lines of its own
            warnings.simplefilter("always")
            code, _, err = run_main("rnn_mnist", "--data", "synthetic", "--name", "run", "--resume", *flags)
        assert code == 2 and not warned, err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert last.read_bytes() == before
        assert peak_memory() - peak < 2e8
        return err

    return resume


def peak_memory() -> int:
    """The most memory that this process has had, in bytes; 0 where it cannot be asked."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit if resource else 0


def change(last: Path, edit) -> None:
    """Rewrite last.pt after edit(content)."""
    content = torch.load(last, weights_only=True)
    edit(content)
    torch.save(content, last)


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(content: bytes, **options) -> bytes:
    """A zip as torch.save makes it, with `content` for its pickle and one record of 16 bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as file:
        for name, data in {"data.pkl": content, "byteorder": b"little", "data/0": bytes(16), "version": b"3\n"}.items():
            file.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def tensor_pickle(elements: int, size: tuple, stride: tuple) -> bytes:
    """A pickle of {"x": a float tensor over record 0, which is said to have so many elements}."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", elements) if isinstance(value, Storage) else None

    buffer = io.BytesIO()
    rebuild = Call(torch._utils._rebuild_tensor_v2, Storage(), 0, size, stride, False, OrderedDict())
    Pickler(buffer, protocol=2).dump({"x": rebuild})
    return buffer.getvalue()


def test_truncated_checkpoint_is_refused_at_any_length(last, refused):
    whole = last.read_bytes()
    for length in (0, 1, 3, 4, 100, len(whole) // 2, len(whole) - 1):
        last.write_bytes(whole[:length])
        refused()


def test_damaged_bytes_are_refused_or_change_nothing(last):
    whole, content, refusals = last.read_bytes(), load_checkpoint(last), 0
    for position in range(0, len(whole), 199):
        damaged = bytearray(whole)
        damaged[position] ^= 0x40
        last.write_bytes(damaged)
        try:
            assert same_bits(load_checkpoint(last), content)  # it was in the padding between two records
        except UserError as error:
            assert str(last) in str(error)
            refusals += 1
    assert refusals > 10


def test_damaged_numbers_are_refused(last, refused):
    damaged = bytearray(last.read_bytes())
    number = damaged.index(load_checkpoint(last)["model"]["fc.bias"].numpy().tobytes())
    damaged[number + 3] ^= 0x40
    last.write_bytes(damaged)
    assert "is damaged: one of its checksums is wrong" in refused()


def test_best_model_that_is_damaged_anyhow_does_not_keep_a_run_from_going_on(last, run_main):
    """Bytes that are missing let zipfile look before the file's beginning, which is an error of the system's."""
    best = last.with_name("best.pt")
    whole, model = best.read_bytes(), load_checkpoint(best)["model"]
    resume = ("rnn_mnist", "--data", "synthetic", "--name", "run", "--resume")
    for damaged in (whole[:1000] + whole[1016:], whole[16:], whole[: len(whole) // 2], whole[:-1], b""):
        best.write_bytes(damaged)
        assert run_main(*resume)[0] == 0
        assert same_bits(load_checkpoint(best)["model"], model)


@pytest.mark.skipif(os.name == "nt", reason="makes a named pipe")
@pytest.mark.parametrize("name", ["last.pt", "config.json"])
def test_pipe_in_a_files_place_is_refused(last, run_main, name):
    last.unlink()
    (last.parent / "config.json").unlink()
    os.mkfifo(last.parent / name)
    code, _, err = run_main("rnn_mnist", "--data", "synthetic", "--name", "run", "--resume")
    assert code == 2 and f"{name}: it is no regular file" in err and err.count("\n") == 1


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("form", ["bare pickle", "in an archive", "archive behind a pickle"])
def test_malicious_pickle_runs_nothing(last, refused, form, protocol):
    evil = pickle.dumps({"model": Call(Path.write_text, Path("pwned"), "x")}, protocol=protocol)
    content = {"bare pickle": evil, "in an archive": archive(evil), "archive behind a pickle": evil + archive(evil)}
    last.write_bytes(content[form])
    refused()
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    "call", [Call(bytearray, 10**12), Call(torch.FloatTensor, 10**11), Call(torch.Tensor, 10**6, 10**6)]
)
def test_call_for_memory_that_pytorch_itself_would_allow_is_refused(last, refused, call):
    last.write_bytes(archive(pickle.dumps({"x": call}, protocol=2)))
    assert "asks for" in refused()


@pytest.mark.parametrize(
    "elements, size, stride",
    [
        (4000, (4000,), (1,)),  # a storage beyond its record: whatever lies behind it in memory
        (10**12, (4,), (1,)),
        (4, (10**12,), (1,)),  # a tensor beyond its storage
        (4, (10**12,), (0,)),  # one element, repeated
        (4, (2**62, 4), (1, 1)),
    ],
)
def test_tensor_of_absurd_size_is_refused(last, refused, elements, size, stride):
    last.write_bytes(archive(tensor_pickle(elements, size, stride)))
    refused()


def test_one_number_repeated_without_end_takes_no_memory_where_nothing_needs_it(last, run_main):
    endless, peak = torch.zeros(1).expand(10**12), peak_memory()
    change(last, lambda content: content["optimizer"].update(more=[{"x": endless}]))
    change(last.with_name("best.pt"), lambda content: content["metrics"].update(test_loss=endless))
    assert run_main("rnn_mnist", "--data", "synthetic", "--name", "run", "--epochs", "2", "--resume")[0] == 0
    assert peak_memory() - peak < 2e8


def test_the_archives_of_these_tests_are_read_when_nothing_is_wrong(tmp_path):
    file = tmp_path / "good.pt"
    file.write_bytes(archive(tensor_pickle(4, (4,), (1,))))
    assert torch.load(file, weights_only=True)["x"].tolist() == [0.0] * 4


def test_compressed_and_overlapping_archives_are_refused(last, refused):
    last.write_bytes(archive(pickle.dumps("a" * 10**7, protocol=2), compression=zipfile.ZIP_DEFLATED))
    assert "not an archive as PyTorch writes it" in refused()
    content = archive(b"\x80\x02N.")
    name = content.rindex(b"archive/data/0")  # in the directory at the end; sizes stand 26 and 22 bytes before it
    claims = bytearray(content)
    claims[name - 26 : name - 18] = struct.pack("<II", 2**31, 2**31)
    last.write_bytes(claims)
    assert "not an archive as PyTorch writes it" in refused()


def test_containers_that_hold_themselves_or_grow_are_refused(last, refused):
    def circle(content):
        content["circle"] = content

    change(last, circle)
    load_checkpoint(last)  # harmless, and it ends

    def grow(content):
        bomb = ["x"]
        for _ in range(60):
            bomb = [bomb, bomb]
        content["config"]["experiment"] = bomb

    change(last, grow)
    assert "config" in refused()


CASES = {
    "no format": lambda c: c.pop("format"),
    "a format of several numbers": lambda c: c.update(format=torch.ones(2)),
    "another format": lambda c: c.update(format=2),
    "no config": lambda c: c.pop("config"),
    "a config that is a tensor": lambda c: c.update(config=torch.zeros(3)),
    "a tensor for a dataset": lambda c: c["config"].update(dataset=torch.zeros(3)),
    "another dataset": lambda c: c["config"]["dataset"].update(checksum="0"),
    "another experiment": lambda c: c["config"].update(experiment="cnn_synthetic"),
    "no flag lr": lambda c: c["config"]["flags"].pop("lr"),
    "lr of NaN": lambda c: c["config"]["flags"].update(lr=float("nan")),
    "negative lr": lambda c: c["config"]["flags"].update(lr=-1.0),
    "lr that is a list": lambda c: c["config"]["flags"].update(lr=[0.001]),
    "an unknown optimizer": lambda c: c["config"]["flags"].update(optimizer="lion"),
    "another optimizer": lambda c: c["config"]["flags"].update(optimizer="adagrad"),
    "a billion hidden units": lambda c: c["config"]["flags"].update(hidden_size=10**9),
    "an enormous number": lambda c: c["config"]["flags"].update(hidden_size=10**600),
    "another hidden size": lambda c: c["config"]["flags"].update(hidden_size=9),
    "another cell": lambda c: c["config"]["flags"].update(cell="lstm"),
    "fewer epochs than it has": lambda c: (c.update(epoch=2), c["history"].append([2, *c["history"][0][1:]])),
    "no model": lambda c: c.pop("model"),
    "no optimizer": lambda c: c.pop("optimizer"),
    "no generator": lambda c: c.pop("generator"),
    "a model that is a list": lambda c: c.update(model=[]),
    "a weight too few": lambda c: c["model"].popitem(),
    "a weight too many": lambda c: c["model"].update(extra=torch.zeros(1)),
    "a weight of another shape": lambda c: c["model"].update({"fc.bias": torch.zeros(11)}),
    "a weight of another type": lambda c: c["model"].update({"fc.bias": torch.zeros(10, dtype=torch.float64)}),
    "a weight that is a number": lambda c: c["model"].update({"fc.bias": 0.0}),
    "a weight without end": lambda c: c["model"].update({"fc.bias": torch.zeros(1).expand(10**12)}),
    "a moment without end": lambda c: c["optimizer"]["state"][0].update(exp_avg=torch.zeros(1).expand(10**12)),
    "a generator without end": lambda c: c.update(generator=torch.zeros(1, dtype=torch.uint8).expand(10**12)),
    "a name that is no text": lambda c: c["model"].update({7: torch.zeros(1)}),
    "no state of the optimizer": lambda c: c["optimizer"].pop("state"),
    "an empty state of the optimizer": lambda c: c["optimizer"]["state"].clear(),
    "a moment missing": lambda c: c["optimizer"]["state"][0].pop("exp_avg"),
    "a moment of another shape": lambda c: c["optimizer"]["state"][0].update(exp_avg=torch.zeros(2)),
    "a moment of another type": lambda c: c["optimizer"]["state"][0].update(
        exp_avg=c["optimizer"]["state"][0]["exp_avg"].bfloat16()
    ),
    "a step that is no scalar": lambda c: c["optimizer"]["state"][0].update(step=torch.zeros(10)),
    "a generator too short": lambda c: c.update(generator=c["generator"][:-1]),
    "a generator of another type": lambda c: c.update(generator=c["generator"].float()),
    "a generator of all ones": lambda c: c.update(generator=torch.full_like(c["generator"], 255)),
    "an epoch of NaN": lambda c: c.update(epoch=float("nan")),
    "an epoch that is true": lambda c: c.update(epoch=True),
    "a negative epoch": lambda c: c.update(epoch=-1),
    "epoch 0": lambda c: c.update(epoch=0, history=[]),
    "an epoch beyond its metrics": lambda c: c.update(epoch=2),
    "metrics of another epoch": lambda c: c["history"][0].__setitem__(0, 5),
    "metrics that are text": lambda c: c["history"][0].__setitem__(1, "1"),
    "an accuracy of 2": lambda c: c["history"][0].__setitem__(4, 2.0),
    "an accuracy of NaN": lambda c: c["history"][0].__setitem__(4, float("nan")),
    "a column too many": lambda c: c["history"][0].append(0.0),
}


def test_checkpoint_of_wrong_content_is_refused(last, refused):
    """All cases in one test, as each would train its own run first."""
    whole = last.read_bytes()
    (last.parent / "config.json").unlink()  # last.pt alone is to be judged
    for name, edit in CASES.items():
        last.write_bytes(whole)
        change(last, edit)
        try:
            refused()
        except BaseException as error:
            raise AssertionError(name) from error


def test_optimizer_settings_come_from_the_flags_and_not_from_the_checkpoint(last, run_main):
    def edit(content):
        for group in content["optimizer"]["param_groups"]:
            group.update(lr=float("nan"), betas=(5, 5), weight_decay=-3, params="nonsense")

    resume = ("--data", "synthetic", "--epochs", "2", "--resume")
    untouched = last.parent.with_name("untouched")
    untouched.mkdir()
    for name in ("last.pt", "config.json"):
        (untouched / name).write_bytes((last.parent / name).read_bytes())
    assert run_main("rnn_mnist", *resume, "--name", "untouched")[0] == 0
    change(last, edit)
    assert run_main("rnn_mnist", *resume, "--name", "run")[0] == 0
    first, second = (torch.load(run / "last.pt", weights_only=True) for run in (last.parent, untouched))
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in second["model"])
    assert first["optimizer"]["param_groups"] == second["optimizer"]["param_groups"]


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_moments_with_strides_of_their_own_are_numbers_all_the_same(last, run_main, cell):
    """A fused optimizer goes by position: in a view that repeats one number it would write past the memory's end."""
    flags = (*TINY[:4], "--cell", cell, "--name")
    runs = [last.parents[1] / name for name in ("strided", "plain")]
    for run in runs:
        assert run_main("rnn_mnist", *flags, run.name, "--epochs", "1")[0] == 0

        def repeat(content, plain=run.name == "plain"):
            for state in content["optimizer"]["state"].values():
                like = state["exp_avg"]
                one = torch.full((like.numel(),), 0.01)
                state["exp_avg"] = torch.as_strided(one, like.shape, (0,) * like.ndim, like.numel() - 1)
                if plain:
                    state["exp_avg"] = torch.full(like.shape, 0.01)

        change(run / "last.pt", repeat)
        assert run_main("rnn_mnist", *flags, run.name, "--epochs", "2", "--resume")[0] == 0
    strided, plain = (torch.load(run / "last.pt", weights_only=True)["model"] for run in runs)
    assert all(torch.equal(strided[name], value) and value.isfinite().all() for name, value in plain.items())


def test_averaged_weights_that_are_not_of_the_network_are_refused(last, run_main):
    words = ("rnn_mnist", *TINY[:4], "--average-weights", "0.9", "--name", "averaged", "--epochs")
    assert run_main(*words, "1")[0] == 0
    averaged = last.parent.with_name("averaged") / "last.pt"
    whole = averaged.read_bytes()
    for edit in (
        lambda content: content.pop("average"),
        lambda content: content.update(average=[]),
        lambda content: content["average"].popitem(),
        lambda content: content["average"].update({"fc.bias": torch.zeros(1).expand(10**12)}),
    ):
        averaged.write_bytes(whole)
        change(averaged, edit)
        code, _, err = run_main(*words, "2", "--resume")
        assert code == 2 and "belongs to another network or optimizer than its flags say" in err
    averaged.write_bytes(whole)
    assert run_main(*words, "2", "--resume")[0] == 0


def test_checkpoint_of_another_network_is_refused(last, refused, run_main):
    assert run_main("rnn_mnist", *TINY[:4], "--epochs", "1", "--cell", "lstm", "--name", "other")[0] == 0
    other = torch.load(last.parent.with_name("other") / "last.pt", weights_only=True)
    change(last, lambda content: content.update(model=other["model"]))
    assert "belongs to another network" in refused()


def test_config_json_of_anything_else_is_refused(last, run_main):
    config = last.parent / "config.json"
    last.unlink()
    for text in (
        "",
        "[]",
        "{",
        "null",
        '{"flags": []}',
        '{"flags": {"lr": [[]]}}',
        '{"flags": {}, "x": [[]]}',
        "\x00",
        "[" * 100_000,
    ):
        config.write_text(text)
        code, _, err = run_main("rnn_mnist", "--data", "synthetic", "--name", "run", "--resume")
        assert code == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert config.read_text() == text


def test_a_good_checkpoint_holds_only_tensors_and_plain_values(last):
    def kinds(value):
        if isinstance(value, dict):
            return set().union(*(kinds(each) for pair in value.items() for each in pair))
        if isinstance(value, list | tuple):
            return set().union(*(kinds(each) for each in value))
        return {type(value)}

    for file in (last, last.with_name("best.pt")):
        assert kinds(load_checkpoint(file)) <= {Tensor, str, int, float, bool, type(None)}
