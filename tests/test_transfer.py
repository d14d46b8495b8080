"""--classes, and the analysis `transfer` of a network trained with it, on a few synthetic images."""

import csv
import math
import shutil
from pathlib import Path

import pytest
import torch
from report_grids import cnn_row, row_runs

import cnn_cifar10
import visualize
from harness.analyses import base, transfer
from harness.checkpoint import load_trained
from harness.data import load_images, nth_of_class
from harness.errors import UserError
from harness.flags import is_class_list, parse_flags
from harness.grid.rows import load_grid
from harness.metrics import read_metrics
from harness.report.results import families_of, guessing_loss
from interpret.chain import feature_vectors
from interpret.probe import probe
from models import build_model

OTHERS = ",".join(map(str, range(3, 10)))


@pytest.fixture(scope="module")
def few_images():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.synthetic.TRAIN_COUNT", 200)
        patch.setattr("harness.synthetic.TEST_COUNT", 60)
        patch.setattr("harness.publish.final_figures", lambda *_: (b"", *torch.zeros(2, 4, 4, 3).byte().numpy()))
        patch.setattr(transfer, "SIZES", {2: 2, 4: 1, 10_000: 1})
        patch.setattr(transfer, "STEPS", 1)
        yield


def train(runs: Path, *argv: str) -> Path:
    flags = ["--data=synthetic", "--epochs=2", f"--runs-dir={runs}", "--threads=1", "--fc-units=16", *argv]
    assert cnn_cifar10.main(flags) == 0
    (run,) = runs.glob("*/*")
    return run


@pytest.fixture(scope="module")
def run(few_images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network that learned the classes 0, 1 and 2."""
    return train(tmp_path_factory.mktemp("runs"), "--classes", "0,1,2")


@pytest.fixture
def subject(run: Path) -> base.Subject:
    subject = base.Subject(load_trained(run / "best.pt", build_model), build_model=build_model)
    base.show_images(subject, None, data_dir=Path("data"), mirror=None, device="cpu")
    subject.others = base.other_images(subject.trained, Path("data"), None)
    return subject


def test_the_named_classes_alone_are_left_and_numbered_anew(few_images) -> None:
    every, some = (load_images("synthetic-shapes", data_dir=Path("data"), classes=classes) for classes in ("", "2,5,9"))
    assert some.classes == tuple(every.classes[number] for number in (2, 5, 9)) and some.checksum == every.checksum
    for split, whole in ((some.train, every.train), (some.test, every.test)):
        kept = [index for index, label in enumerate(whole.labels.tolist()) if label in (2, 5, 9)]
        assert torch.equal(split.images, whole.images[kept])
        assert torch.equal(torch.tensor([2, 5, 9])[split.labels], whole.labels[kept])


def test_a_class_that_the_set_lacks_is_refused(few_images) -> None:
    with pytest.raises(UserError, match=r"^--classes 3,10: synthetic-shapes has the classes 0 to 9$"):
        load_images("synthetic-shapes", data_dir=Path("data"), classes="3,10")


@pytest.mark.parametrize("text", ["3", "3,1", "1,1", "01,2", "1,2,", "a,b", "1, 2", "-1,2", "1,99999"])
def test_only_two_classes_or_more_in_rising_order_are_a_list(text: str) -> None:
    assert is_class_list("") and is_class_list("0,1") and is_class_list("2,10,9999") and not is_class_list(text)
    with pytest.raises(UserError, match=r"is not two classes or more in rising order, such as 0,1,2$"):
        parse_flags(cnn_cifar10.make_parser(), [f"--classes={text}"])


@pytest.mark.parametrize("classes", [["0"], "1,0", "٣,٤", "9" * 5000, {"a": 1}, 3])
def test_a_checkpoint_with_other_classes_is_refused(run: Path, tmp_path: Path, classes: object) -> None:
    content = torch.load(run / "best.pt", weights_only=True)
    content["config"]["flags"]["classes"] = classes
    torch.save(content, tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"does not say on which images|has no config of a run"):
        load_trained(tmp_path / "best.pt", build_model)


def test_a_run_of_some_classes_resumes_with_them(run: Path, tmp_path: Path, monkeypatch) -> None:
    runs = shutil.copytree(run.parent.parent, tmp_path / "runs")
    flags = ["--data=synthetic", f"--runs-dir={runs}", "--threads=1", "--fc-units=16", "--resume", f"--name={run.name}"]
    assert cnn_cifar10.main([*flags, "--epochs=3"]) == 0
    assert len(read_metrics(runs / run.parent.name / run.name / "metrics.csv")) == 3
    with pytest.raises(UserError, match=r"--classes 0,1 differs from the recorded 0,1,2"):
        cnn_cifar10.main([*flags, "--classes=0,1"])


def test_rows_of_some_classes_are_a_family_of_their_own(tmp_path: Path) -> None:
    every, some, others = (
        row_runs(cnn_row(name, flags={"classes": classes, "epochs": 3}), (0,), tmp_path)
        for name, classes in (("all", ""), ("some", "1,2,3"), ("others", "1,23"))
    )
    names = [family.name for family in families_of([every, some, others])]
    assert names == ["cnn", "cnn-cifar10-1.2.3", "cnn-cifar10-1.23"]
    assert guessing_loss(every) == math.log(10) and guessing_loss(some) == math.log(3)


def test_a_row_with_a_class_too_many_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text("[[row]]\nname='a'\nscript='rnn_mnist'\nflags={classes='0,10'}\n")
    with pytest.raises(UserError, match=r"MNIST has the classes 0 to 9, and not all of 0,10$"):
        load_grid(tmp_path / "grid.toml")


def test_labels_are_counted_by_class() -> None:
    assert nth_of_class(torch.tensor([1, 0, 1, 1, 2, 0])).tolist() == [1, 1, 2, 3, 1, 2]


def test_a_run_of_some_classes_says_so_and_its_images_are_those(run: Path, subject: base.Subject) -> None:
    assert run.name == "adagrad-lr0.01-e2-synthetic-classes0+1+2-fc16-s0"
    assert subject.source == f"synthetic-shapes gray, classes 0,1,2, epoch {subject.trained.epoch}"
    assert subject.images.classes == load_images("synthetic-shapes", data_dir=Path("data")).classes[:3]
    (others,) = subject.others
    assert others.classes == load_images("synthetic-shapes", data_dir=Path("data")).classes[3:]


def test_from_scratch_is_what_the_script_trains_on_these_classes(run: Path, subject: base.Subject, tmp_path) -> None:
    (others,) = subject.others
    alone = train(tmp_path, "--classes", OTHERS)
    torch.set_num_threads(1)
    flags = parse_flags(cnn_cifar10.make_parser(), ["--epochs=2", "--fc-units=16"])
    accuracy = transfer.from_scratch(subject, others, torch.arange(len(others.train)), flags)
    assert accuracy == read_metrics(alone / "metrics.csv")[-1].test_accuracy


def test_the_table_has_each_method_for_each_number_of_images(run: Path, subject: base.Subject, tmp_path) -> None:
    assert visualize.main([str(run), "--only", "transfer", "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "transfer.csv").read_text().splitlines()))
    assert [(row["images of each"], row["choices"]) for row in rows] == [("2", "2")] * 3 + [("4", "1")] * 3
    assert [row["method"] for row in rows] == ["trained features", "untrained features", "from scratch"] * 2
    assert all(float(row["lowest"]) <= float(row["accuracy"]) <= float(row["highest"]) for row in rows)
    (others,) = subject.others
    labels, generator = others.train.labels, torch.Generator().manual_seed(0)
    accuracies = []
    for count in (2, 2, 4):
        order = torch.randperm(len(labels), generator=generator)
        seen: dict[int, list[int]] = {}
        for index in order.tolist():
            seen.setdefault(int(labels[index]), []).append(index)
        chosen = [index for index in order.tolist() if index in seen[int(labels[index])][:count]]
        train, test = (
            feature_vectors(subject.model, others.normalize(split.images)).last_hidden
            for split in (others.train, others.test)
        )
        answers = probe(train[chosen], labels[chosen], 7)(test).argmax(dim=1)
        accuracies.append(float((answers == others.test.labels).double().mean()))
    one_image = 1.01 / len(others.test)  # another order of sums may turn an answer
    assert [float(rows[0]["lowest"]), float(rows[0]["highest"])] == pytest.approx(sorted(accuracies[:2]), abs=one_image)
    assert float(rows[3]["accuracy"]) == pytest.approx(accuracies[2], abs=one_image)


def test_a_network_of_all_classes_needs_another_set(few_images, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = train(tmp_path / "runs")
    with pytest.raises(
        UserError, match=r"^transfer cannot be shown: it needs two classes that the network did not learn"
    ):
        visualize.main([str(run), "--only", "transfer"])
