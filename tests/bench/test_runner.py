"""The benchmarks' registry, statistics, records and tables, on fake clocks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench import __main__ as command
from bench import gpu, record, render
from bench.case import Case, all_cases
from bench.measure import extra_bytes, interleave, summarize
from bench.run import format_bytes, format_time, run_case, run_cases
from bench.sanitize import LAUNCHES
from fastgen.kernels._common.tiling import runs_triton

ROOT = Path(__file__).resolve().parent.parent.parent


def case(name: str = "subject/task/8", **changes: object) -> Case:
    settings = {
        "variants": {"slow": lambda device: lambda: 1, "fast": lambda device: lambda: 1},
        "baseline": "slow",
        "title": "work at 8",
        "devices": ("cpu",),
    }
    return Case(name, **{**settings, **changes})


class FakeClock:
    """A timer with given durations, function -> seconds a call, over and over; it notes who was asked."""

    def __init__(self, seconds: dict[Callable[[], object], list[float]]) -> None:
        self.seconds = seconds
        self.asked: list[Callable[[], object]] = []

    def __call__(self, run: Callable[[], object], calls: int) -> float:
        queue = self.seconds[run]
        self.asked.append(run)
        queue.append(queue.pop(0))
        return queue[-1]


def one() -> None: ...
def two() -> None: ...
def three() -> None: ...


class TestCase:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"baseline": "other"}, "baseline must be one of the variants; got 'other', have slow, fast"),
            ({"variants": {}}, "have none"),
            ({"unit": "minutes"}, "unit must be one of s, ms, us"),
            ({"devices": ("tpu",)}, "devices must be 'cpu', 'cuda' or both"),
            ({"devices": ()}, "devices must be"),
        ],
    )
    def test_errors(self, changes: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            case(**changes)

    def test_matches_names_and_whole_tags(self) -> None:
        chosen = case("dmol/loss/8", tags=("readme",))
        assert chosen.matches([]) and chosen.matches(["loss"]) and chosen.matches(["dmol", "readme"])
        assert not chosen.matches(["read"]) and not chosen.matches(["loss", "conv"])


class TestRegistry:
    def test_cases_are_well_formed(self) -> None:
        # Names are unique, and there is something to compare; all_cases() itself refuses doubles.
        for registered in all_cases():
            assert len(registered.name.split("/")) >= 2, registered.name
            assert len(registered.variants) >= 2, f"{registered.name} compares nothing"

    def test_doubles_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Module:
            cases = staticmethod(lambda: [case(), case()])

        monkeypatch.setattr("bench.case.pkgutil.iter_modules", lambda path: [type("M", (), {"name": "double"})])
        monkeypatch.setattr("bench.case.importlib.import_module", lambda name: Module)
        with pytest.raises(ValueError, match="'subject/task/8' is there twice"):
            all_cases()


class TestInterleave:
    def test_rounds_rotate_and_stop_at_the_budget(self) -> None:
        clock = FakeClock({one: [2.0], two: [1.0], three: [1.0]})
        samples, calls = interleave({"1": one, "2": two, "3": three}, clock, budget_s=17.0, min_rounds=1)
        # A round takes 4 s: four fit in 17.
        assert {label: len(seconds) for label, seconds in samples.items()} == {"1": 4, "2": 4, "3": 4}
        assert calls == {"1": 1, "2": 1, "3": 1}
        order = clock.asked[3:]  # after one call each to see how long it takes
        assert order[:9] == [one, two, three, two, three, one, three, one, two]

    def test_at_least_min_rounds(self) -> None:
        clock = FakeClock({one: [100.0]})
        samples, _ = interleave({"1": one}, clock, budget_s=1.0, min_rounds=3)
        assert len(samples["1"]) == 3

    def test_at_most_max_rounds(self) -> None:
        clock = FakeClock({one: [1.0]})
        samples, _ = interleave({"1": one}, clock, budget_s=100.0, max_rounds=5)
        assert len(samples["1"]) == 5

    def test_short_functions_are_called_often(self) -> None:
        clock = FakeClock({one: [1e-5], two: [1.0]})
        _, calls = interleave({"1": one, "2": two}, clock, budget_s=1.0)
        assert calls == {"1": 200, "2": 1}


class TestSummarize:
    def test_speed_ups_are_paired(self) -> None:
        # The machine is three times slower in later rounds. The ratio of the medians would be 6 / 2 = 3.
        samples = {"slow": [2.0, 2.0, 6.0, 6.0, 6.0], "fast": [1.0, 1.0, 3.0, 3.0, 2.0]}
        found = summarize(samples, "slow")
        assert found["fast"].speedup == 2.0
        assert found["fast"].median_s == 2.0
        assert (found["slow"].speedup, found["slow"].speedup_low, found["slow"].speedup_high) == (
            1.0,
            1.0,
            1.0,
        )

    def test_quartiles(self) -> None:
        found = summarize({"slow": [5.0, 1.0, 2.0, 4.0, 3.0]}, "slow")["slow"]
        assert (found.low_s, found.median_s, found.high_s) == (2.0, 3.0, 4.0)

    def test_one_round(self) -> None:
        found = summarize({"slow": [4.0], "fast": [1.0]}, "slow")["fast"]
        assert (found.low_s, found.median_s, found.high_s, found.speedup) == (1.0, 1.0, 1.0, 4.0)


class TestExtraBytes:
    @pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel keeps peaks to itself")
    def test_peak_of_a_call(self) -> None:
        size = 64 << 20

        def run() -> torch.Tensor:
            first = torch.zeros(size, dtype=torch.uint8)
            second = first + 1  # two at a time
            del first
            return second + 1  # and again two

        run()
        found = extra_bytes(run, "cpu")
        # Pages and the interpreter's own objects: well under a hundredth.
        assert found == pytest.approx(2 * size, rel=0.02)

    def test_memory_held_before_is_not_counted(self) -> None:
        kept = torch.ones(64 << 20, dtype=torch.uint8)
        kept.sum()
        found = extra_bytes(lambda: kept[:10].sum(), "cpu")
        assert found is None or found < 4 << 20


class TestRunCase:
    def test_records(self) -> None:
        runs = {"slow": one, "fast": two}
        clock = FakeClock({one: [4.0], two: [1.0]})
        chosen = case(variants={label: lambda device, run=run: run for label, run in runs.items()}, unit="s")
        slow, fast = run_case(chosen, "cpu", budget_s=1.0, timer=clock)
        assert (slow["variant"], slow["median_s"], slow["speedup"]) == ("slow", 4.0, 1.0)
        assert (fast["variant"], fast["median_s"], fast["speedup"]) == ("fast", 1.0, 4.0)
        assert fast["case"] == "subject/task/8" and fast["rounds"] == 3 and fast["calls"] == 1
        assert {"case", "variant", "baseline", "unit", "title", "tags", "extra_bytes"} <= fast.keys()

    def test_variants_that_disagree_have_no_speed(self) -> None:
        def check(results: object) -> None:
            raise ValueError(f"they differ: {results}")

        with pytest.raises(ValueError, match=r"they differ: \{'slow': 1, 'fast': 1\}"):
            run_case(case(check=check), "cpu", budget_s=0.0)

    def test_a_failing_case_is_recorded_and_does_not_stop_the_rest(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def broken(device: str) -> Callable[[], object]:
            raise RuntimeError("no such kernel")

        cases = [case("a/broken", variants={"slow": broken}), case("b/fine")]
        failures = run_cases(cases, "cpu", {"threads": 2}, budget_s=0.0, out=tmp_path / "new" / "out.jsonl")
        assert failures == 1
        lines = [json.loads(line) for line in (tmp_path / "new" / "out.jsonl").read_text().splitlines()]
        assert lines[0] == {"case": "a/broken", "error": "RuntimeError: no such kernel", "threads": 2}
        assert [line["variant"] for line in lines[1:]] == ["slow", "fast"]
        assert "a/broken  FAILED  RuntimeError: no such kernel" in capsys.readouterr().out

    def test_cases_that_no_time_is_left_for_count_as_failed(self) -> None:
        assert run_cases([case("a/1"), case("a/2")], "cpu", {}, budget_s=0.0, total_s=-1.0) == 2


class TestRecord:
    def test_environment(self) -> None:
        found = record.environment("cpu")
        assert found["torch"] == torch.__version__ and found["threads"] == torch.get_num_threads()
        assert found["device"] == "cpu" and found["device_name"]
        assert len(found["source"]) == 12
        json.dumps(found)

    def test_source_hash_follows_the_code(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "fastgen").mkdir()
        (tmp_path / "fastgen" / "a.py").write_text("1")
        monkeypatch.setattr(record, "ROOT", tmp_path)
        before = record.source_hash()
        assert record.source_hash() == before
        (tmp_path / "fastgen" / "a.py").write_text("2")
        assert record.source_hash() != before

    def test_results_file(self) -> None:
        name = "Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz"
        cpu = {"device": "cpu", "device_name": name, "threads": 2}
        assert record.results_file(cpu).name == "intel-xeon-gold-6230-cpu-2.10ghz-2-threads.jsonl"
        gpu = {"device": "cuda", "device_name": "NVIDIA H200", "threads": 16}
        assert record.results_file(gpu) == ROOT / "bench" / "results" / "nvidia-h200.jsonl"

    def test_a_broken_line_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        path.write_text('{"case": 1}\n{"case":')
        with pytest.raises(ValueError, match=r"out.jsonl:2: each line must be a JSON object"):
            record.read([path])


def row(variant: str, seconds: float, **changes: object) -> record.Record:
    return {
        "case": "dmol/loss/8",
        "title": "DMOL loss, 8 images",
        "tags": ["readme"],
        "variant": variant,
        "baseline": "plain",
        "unit": "ms",
        "median_s": seconds,
        "speedup": 0.004 / seconds,
        "speedup_low": 0.0038 / seconds,
        "speedup_high": 0.0042 / seconds,
        "extra_bytes": 12_500_000,
        "device": "cpu",
        "device_name": "Processor",
        "threads": 2,
        "torch": "2.13.0",
        "triton": None,
        "commit": "abc",
        "dirty": False,
        "source": "def",
        "date": "2030-01-02T03:04:05+00:00",
        **changes,
    }


class TestRender:
    def test_table(self) -> None:
        assert render.tables([row("plain", 0.004), row("ours", 0.001, extra_bytes=None)]) == "\n".join(
            [
                "**Processor, 2 threads**",
                "",
                "| what | variant | time | speed-up | extra memory |",
                "|---|---|--:|--:|--:|",
                "| DMOL loss, 8 images | plain | 4.00 ms | 1 | 12 MB |",
                "|  | ours | 1.00 ms | 4.00 (3.80-4.20) | - |",
                "",
                "Measured 2030-01-02, torch 2.13.0, triton none, commit abc, source def.",
            ]
        )

    def test_the_newest_whole_run_is_shown(self) -> None:
        later = {"date": "2030-01-03T00:00:00+00:00"}
        old = [row("plain", 0.004), row("dropped", 0.002), row("ours", 0.003)]
        new = [row("added", 0.002, **later), row("plain", 0.004, **later), row("ours", 0.001, **later)]
        failed = {"case": "dmol/loss/8", "error": "RuntimeError", "device": "cpu"}
        assert render.latest([*old, *new, failed]) == new

    def test_devices_and_thread_counts_are_kept_apart(self) -> None:
        rows = [row("plain", 0.004), row("plain", 0.004, threads=4), row("plain", 0.004, device_name="Other")]
        assert render.latest(rows) == rows

    def test_nothing_recorded(self) -> None:
        assert render.tables([]) == "No recorded runs yet."

    @pytest.mark.parametrize(
        ("seconds", "unit", "text"),
        [
            (1.2345, "s", "1.23 s"),
            (0.01234, "ms", "12.3 ms"),
            (2.0, "ms", "2,000 ms"),
            (1.5e-6, "us", "1.50 µs"),
        ],
    )
    def test_format_time(self, seconds: float, unit: str, text: str) -> None:
        assert format_time(seconds, unit) == text

    def test_format_bytes(self) -> None:
        assert [format_bytes(n) for n in (None, 0, 1_550_000, 1_234_000_000)] == [
            "-",
            "0.0 MB",
            "1.6 MB",
            "1,234 MB",
        ]

    def test_readme_gets_the_tagged_cases(self) -> None:
        tail = "\n".join(marker for name in render.SECTIONS for marker in render.markers(name)) + "\ntail\n"
        text = f"# Head\n{render.BEGIN}\nold\n{render.END}\n{tail}"
        other = row("plain", 0.004, case="other/8", title="Other", tags=[])
        found = render.with_tables(text, [row("plain", 0.004), other])
        assert found.startswith(f"# Head\n{render.BEGIN}\n**Processor") and found.endswith("\ntail\n")
        assert "DMOL" in found and "Other" not in found and "\nold\n" not in found
        assert render.with_tables(found, [row("plain", 0.004), other]) == found

    def test_readme_names_the_gpus_of_each_op(self) -> None:
        on_gpu = row("ours", 0.001, device="cuda", device_name="Some GPU", case="dmol/loss/8", commit="abc")
        text = render.on_gpus([on_gpu, row("plain", 0.004, case="masked_conv2d/3x3")])
        assert "| `dmol` | Some GPU, commit abc |" in text
        assert "| `masked_conv2d` | not yet: interpreter" in text

    @pytest.mark.parametrize(
        "text", ["", render.BEGIN, f"{render.END} {render.BEGIN}", f"{render.BEGIN}{render.END}" * 2]
    )
    def test_readme_without_markers(self, text: str) -> None:
        with pytest.raises(ValueError, match="once each"):
            render.with_tables(text, [])


class TestCommand:
    @pytest.fixture(autouse=True)
    def _few_cases(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cases = [case("dmol/loss/8"), case("conv/forward/8"), case("conv/gpu/8", devices=("cuda",))]
        monkeypatch.setattr(command, "all_cases", lambda: cases)
        monkeypatch.setattr("bench.measure.MIN_SAMPLE_S", 0.0)

    def test_list(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main(["list", "--filter", "conv"]) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
            "conv/forward/8",
            "conv/gpu/8",
        ]

    def test_run_writes_records_with_their_environment(self, tmp_path: Path) -> None:
        out = tmp_path / "out.jsonl"
        arguments = [
            "run",
            "--filter",
            "conv",
            "--device",
            "cpu",
            "--seconds",
            "60",
            "--quick",
            "--out",
            str(out),
        ]
        assert command.main(arguments) == 0
        records = record.read([out])
        assert [(r["case"], r["variant"], r["quick"]) for r in records] == [
            ("conv/forward/8", "slow", True),
            ("conv/forward/8", "fast", True),
        ]
        assert records[0]["torch"] == torch.__version__

    def test_nothing_to_run(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main(["run", "--filter", "nonsense", "--device", "cpu"]) == 2
        assert "no case on cpu matches" in capsys.readouterr().err

    def test_quick_runs_are_not_recorded(self) -> None:
        with pytest.raises(SystemExit):
            command.main(["run", "--quick", "--record"])

    def test_readme_is_checked_and_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        readme = tmp_path / "README.md"
        markers = "\n".join(marker for name in render.SECTIONS for marker in render.markers(name))
        readme.write_text(f"{render.BEGIN}\nout of date\n{render.END}\n{markers}\n")
        monkeypatch.setattr(render, "README", readme)
        results = tmp_path / "results.jsonl"
        record.append(results, [row("plain", 0.004)])
        assert command.main(["render", "--check", str(results)]) == 1
        assert "python -m bench render --write" in capsys.readouterr().err
        assert command.main(["render", "--write", str(results)]) == 0
        assert command.main(["render", "--check", str(results)]) == 0
        assert "DMOL loss" in readme.read_text()


class TestSanitize:
    def test_no_op_with_kernels_is_forgotten(self) -> None:
        assert {path.parent.name for path in (ROOT / "kernels").glob("*/triton.py")} <= set(LAUNCHES)

    @pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning")  # NumPy under the interpreter; a GPU is silent
    @pytest.mark.parametrize("op", LAUNCHES)
    def test_launches_run(self, op: str) -> None:
        if not runs_triton(torch.device("cpu")):
            pytest.skip("needs triton and its interpreter")
        LAUNCHES[op]("cpu")


class TestGpuStages:
    def run(self, tmp_path: Path, code: str, limit_s: float = 60.0) -> gpu.Outcome:
        return gpu.run_stage(
            gpu.Stage("try", [sys.executable, "-c", code], limit_s, {"WORD": "here"}), tmp_path, limit_s
        )

    def test_success_and_environment(self, tmp_path: Path) -> None:
        found = self.run(tmp_path, "import os; print(os.environ['WORD'])")
        assert (found.status, found.detail) == ("ok", "here")
        assert (tmp_path / "try.log").read_text() == "here\n"

    def test_failure_shows_the_end_of_the_log(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        found = self.run(tmp_path, "print('reason'); raise SystemExit(3)")
        assert (found.status, found.detail) == ("failed", "exit 3: reason")
        assert "reason" in capsys.readouterr().out

    def test_time_limit(self, tmp_path: Path) -> None:
        found = self.run(tmp_path, "import time; time.sleep(60)", limit_s=0.5)
        assert found.status == "timed out" and found.seconds < 30

    def test_missing_program(self, tmp_path: Path) -> None:
        stage = gpu.Stage("try", ["no-such-program-here"], 1.0, {})
        assert gpu.run_stage(stage, tmp_path, 1.0).status == "missing"

    def test_limits_fit_together(self, tmp_path: Path) -> None:
        every = gpu.stages(tmp_path, [])
        assert [stage.name for stage in every] == ["machine", "tests", "memcheck", "racecheck", "bench"]
        assert sum(stage.limit_s for stage in every) <= gpu.TOTAL_S < 600
        assert [stage.name for stage in gpu.stages(tmp_path, ["bench"])] == ["bench"]

    def test_one_bad_stage_fails_the_whole_and_stops_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        good = [sys.executable, "-c", "print('done')"]
        chosen = [gpu.Stage("a", ["no-such-program-here"], 9.0, {}), gpu.Stage("b", good, 60.0, {})]
        monkeypatch.setattr(gpu, "stages", lambda out, only: chosen)
        monkeypatch.setenv("OUT", str(tmp_path))
        assert gpu.main([]) == 1
        lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
        assert [(line["stage"], line["status"]) for line in lines] == [("a", "missing"), ("b", "ok")]
        assert "| b | ok |" in capsys.readouterr().out
        chosen.pop(0)
        assert gpu.main([]) == 0
        ran = len((tmp_path / "gpu.jsonl").read_text().splitlines())
        assert gpu.main(["--resume"]) == 0
        assert len((tmp_path / "gpu.jsonl").read_text().splitlines()) == ran  # nothing was left to do
        monkeypatch.setattr(gpu, "source_hash", lambda: "edited")
        assert gpu.main(["--resume"]) == 0
        assert len((tmp_path / "gpu.jsonl").read_text().splitlines()) > ran
