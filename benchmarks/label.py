"""What the labeler costs beside the bare engine, `ray.data.llm` and one engine start for each pass.

    make bench-label

All label the same questions with the same model, sampling parameters and number of generated tokens (the end of
sequence is ignored). Each measurement is a process of its own, in turns, `--repeats` times; figures are medians.

vs_engine               rows/s over vLLM's `LLM.chat` with n = 4 on all prompts at once, both without their starts: over the
                        faster of vLLM's default, an engine in processes of its own, which leaves a core to the
                        scheduler, and one in its caller's process, which computes on all cores, as ours does here
vs_engine_bare          over the faster of the two at less work: each request draws as it likes, where ours draws the same samples
                        whenever it is asked for them, and nothing is made of its tokens and log-probabilities
vs_ray_data_llm         rows/s over `ray.data.llm`, a row for each sample, both without their starts
vs_ray_data_llm_all_in  the same with process, Ray and engine starts; and `_unseeded`, if that is asked for with --only, over one
                        that draws as it likes
vs_sequential           over the way of the authors' code, all in: four passes with n = 1 and one of justification, each
                        in a new engine
score_mode              rows/s of `label.mode: score` over sampling
cpu_overhead_us_per_row processor time for a row with an engine that answers at once, and its largest parts, in us
two_actors              rows/s of two actors over one, with a CPU each, and the share of the rows that each has done

Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import csv
import gc
import itertools
import json
import os
import pstats
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from semievol import config
from semievol.config import Collaborator, Columns, EmbeddingConfig, EngineConfig, RunConfig
from semievol.data import storage
from semievol.data.tables import PSEUDO_LABELED, RETRIEVED, BadRow, row_id, validate
from semievol.engines import Completion
from semievol.engines.chat_template import ChatTemplate
from semievol.engines.vllm import PromptBatches, VLLMEngine, engine_environment, engine_options
from semievol.inference.labeler import Labeler, Labeling, Panel, Pass
from semievol.method.confidence import sampling_seed
from semievol.method.prompts import Messages, Prompts
from semievol.tasks import Row
from semievol.tasks.multiple_choice import MultipleChoice

SHARED = Path(__file__).parents[2] / "shared"
MODEL = SHARED / "models" / "tiny-lm"
TASK = MultipleChoice()
SAMPLES, TOKENS, TEMPERATURE = 4, 16, 1.0
WARM_UP = "arc"  # other questions than those that are measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fpb", choices=["fpb", "mmlu"])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=[*PARTS], help="measure these parts; ratios need both sides")
    parser.add_argument("--part", choices=[*PARTS], help=argparse.SUPPRESS)  # what a process of its own measures
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part](rows_of(options.data, options.rows))))
        return
    seen: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.repeats):
        for name in options.only or [part for part in PARTS if part != "ray_data_llm_unseeded"]:
            seen.setdefault(name, []).append(measured(name, options))
            print(name, seen[name][-1], flush=True)
    print(json.dumps(summary(seen) | {"data": options.data, "rows": options.rows, "repeats": options.repeats}))


def measured(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a part says, and the wall time (s) of its process."""
    command = [sys.executable, "-m", "benchmarks.label", "--part", part, "--data", options.data]
    started = time.perf_counter()
    done = subprocess.run([*command, "--rows", str(options.rows)], stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures | {"all_in_s": round(time.perf_counter() - started, 2)}


def summary(seen: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    def median(part: str, figure: str) -> float:
        return statistics.median(float(one[figure]) for one in seen[part])

    def over(ours: str, peer: str, figure: str) -> float:
        return round(statistics.median(a[figure] / b[figure] for a, b in zip(seen[ours], seen[peer], strict=True)), 3)

    figures: dict[str, Any] = {}
    if {"ours", "engine", "engine_in_process"} <= set(seen):
        both = [over("ours", peer, "rows_per_s") for peer in ("engine", "engine_in_process")]
        figures |= {"vs_engine": min(both), "vs_engine_default": both[0]}
    if {"ours", "engine_bare", "engine_bare_in_process"} <= set(seen):
        figures["vs_engine_bare"] = min(over("ours", f"engine_bare{how}", "rows_per_s") for how in ("", "_in_process"))
    for peer, kind in (("ray_data_llm", ""), ("ray_data_llm_unseeded", "_unseeded")):
        if {"ours", peer} <= set(seen):
            figures["vs_ray_data_llm" + kind] = over("ours", peer, "rows_per_s")
        if {"ours_cold", peer} <= set(seen):
            figures["vs_ray_data_llm_all_in" + kind] = over(peer, "ours_cold", "all_in_s")
    if {"ours_justified", "sequential"} <= set(seen):
        figures["vs_sequential"] = over("sequential", "ours_justified", "all_in_s")
    if {"ours_score", "ours"} <= set(seen):
        figures["score_mode"] = over("ours_score", "ours", "rows_per_s")
    if "overhead" in seen:
        figures["cpu_overhead_us_per_row"] = median("overhead", "us_per_row")
        figures["cpu_overhead_parts"] = seen["overhead"][-1]["parts"]
    if {"one_actor", "two_actors"} <= set(seen):
        figures["two_actors"] = over("two_actors", "one_actor", "rows_per_s")
        figures["two_actors_shares"] = seen["two_actors"][-1]["shares"]
    for part in seen:
        for figure in ("rows_per_s", "start_s", "all_in_s"):
            if figure in seen[part][0]:
                figures[f"{part}_{figure}"] = round(median(part, figure), 2)
    return figures


def rows_of(data: str, count: int) -> list[Row]:
    with (SHARED / "data" / data / "unlabeled.csv").open(newline="") as file:
        raw = [record for record, _ in zip(csv.DictReader(file), range(3 * count), strict=False)]
    rows = []
    for record in raw:
        with suppress(BadRow):
            rows.append(validate(record, Columns(), TASK, answer_column=None, max_bytes=10**6))
    short = [row for row in rows if len(row.question) < 2000]  # all fit the window of the model
    unique = list({id_of(row): row for row in short}.values())[:count]
    assert len(unique) == count, f"{data} has {len(unique)} rows"
    return unique


def id_of(row: Row) -> int:
    return row_id(row)


# Ours: bulk inference on a local Ray, as the label stage asks for it.


class FixedLength(VLLMEngine):
    """Our engine; it ignores the end of sequence, and notes when it is asked what. All of them begin together."""

    def __init__(self, model: str, settings: EngineConfig, chat: Any, log: str, warm: bool, engines: int) -> None:
        super().__init__(model, settings, chat)
        self._log = Path(os.devnull)
        if warm:
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, self._warm_up()).result()
        self._log = Path(log, str(os.getpid()))
        self._log.touch()
        while len(os.listdir(log)) < engines:
            time.sleep(0.1)

    async def _warm_up(self) -> None:
        asked = (Prompts(TASK).messages(row) for row in rows_of(WARM_UP, 50))
        sampled = {"temperature": TEMPERATURE, "seed": 0, "max_tokens": TOKENS, "n": SAMPLES}
        await asyncio.gather(*(self.generate(prompt, **sampled) for prompt in asked))

    async def generate(self, messages: Messages, **sampled: Any) -> list[Completion]:
        self._note()
        return await super().generate(messages, **sampled)

    async def score(self, messages: Messages, responses: list[str]) -> list[float]:
        self._note()
        return await super().score(messages, responses)

    def _note(self) -> None:
        with self._log.open("a") as log:
            log.write(f"{time.time()}\n")

    async def _request(self, prompt: list[int], max_tokens: int, **options: Any) -> Any:
        ends = {} if max_tokens == 1 else {"ignore_eos": True, "stop_token_ids": []}
        return await super()._request(prompt, max_tokens, **options | ends)


def ours(
    rows: list[Row],
    *,
    justify: bool = False,
    mode: str = "sample",
    actors: int = 1,
    cpus: int = 2,
    max_num_seqs: int = EngineConfig().max_num_seqs,
    per_commit: int = 250,
    warm: bool = True,
) -> dict[str, Any]:
    from semievol.inference.bulk import Request, answer_rows, count_answers, engine_figures
    from semievol.inference.pool import EnginePool
    from semievol.runtime import cluster
    from semievol.runtime.rows import RowJob

    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        storage.write_table(f"{folder}/source/part-0.parquet", table_of(rows))
        settings = run_config(folder)
        settings.engine.max_num_seqs = max_num_seqs
        settings.resources.label.actors, settings.resources.label.num_cpus = actors, cpus
        cluster.connect(settings)
        connected = time.time()
        os.mkdir(f"{folder}/log")
        request = Request(
            job=RowJob("label", f"{folder}/label", lambda *_: None, per_commit),
            source=f"{folder}/source",
            out=f"{folder}/label/rows",
            schema=PSEUDO_LABELED,
            panel=panel(mode=mode, justify=justify),
            passes=[Pass(str(MODEL), None, (0,), last=True)],
            engine=settings.engine,
            resources=settings.resources.label,
            no_progress_s=settings.limits.no_progress_s,
        )
        pool = EnginePool(partial(FixedLength, log=f"{folder}/log", warm=warm, engines=actors))
        engine = engine_figures(answer_rows(pool, request))
        totals, _ = count_answers(request.out, paid=[])
        assert totals["answered"] + totals["quarantined"] == len(rows)
        written = [file.stat().st_mtime for file in Path(request.out).rglob("*.parquet")]
        asked = [[float(line) for line in note.read_text().split()] for note in Path(folder, "log").iterdir()]
        first = min(times[0] for times in asked)
        seconds = max(written) - first
        figures = {
            "rows_per_s": round(len(rows) / seconds, 2),
            "start_s": round(first - started, 2),  # with the engine's warm-up, if there is one
            "ray_start_s": round(connected - started, 2),
            "engine_start_s": engine["start_s"],
            "output_tokens": totals["output_tokens"],
            "justified": round(totals["justified"] / max(totals["answered"], 1), 4),
            "prefix_cache_hits": engine["prefix_cache_hits"],
            "shares": [round(len(times) / sum(map(len, asked)), 3) for times in asked],
        }
        import ray

        ray.shutdown()
    return figures


def table_of(rows: list[Row]) -> pa.Table:
    records = [
        {"row_id": id_of(row), "question": row.question, "options": row.options, "context": row.context}
        | {"neighbor_ids": [], "neighbor_scores": []}
        for row in rows
    ]
    return pa.Table.from_pylist(records, schema=RETRIEVED)


def panel(**more: Any) -> Panel:
    who = Collaborator(name="warm", k=0, samples=SAMPLES, temperature=TEMPERATURE)
    return Panel(Prompts(TASK), (who,), "", EmbeddingConfig(), max_tokens=TOKENS, **more)


def run_config(folder: str) -> RunConfig:
    data = "{labeled: l, unlabeled: u, test: t}"
    return config.loads(f"{{name: bench, storage: {folder}, model: {{base: {MODEL}}}, data: {data}}}", [], "made here")


def actors(rows: list[Row], count: int) -> dict[str, Any]:
    """Half of the rows, and few at a time, so that the end, where actors run out of them, is a small part."""
    return ours(rows[: len(rows) // 2], actors=count, cpus=1, max_num_seqs=64, per_commit=20)


# The peers.


def chats(rows: list[Row]) -> list[list[dict[str, str]]]:
    return [Prompts(TASK).messages(row) for row in rows]


def sampling(rows: list[Row], bare: bool) -> list[Any]:
    """For each row its own seed, and the log-probabilities that confidence is made of, as text and objects; or tokens alone."""
    from vllm import SamplingParams

    top = EngineConfig().top_logprobs
    shared = {"n": SAMPLES, "temperature": TEMPERATURE, "max_tokens": TOKENS, "ignore_eos": True, "logprobs": top}
    if bare:
        return [SamplingParams(**shared, detokenize=False, flat_logprobs=True)] * len(rows)
    return [SamplingParams(**shared, seed=sampling_seed(0, id_of(row), 0)) for row in rows]


def llm_of_vllm() -> Any:
    settings = EngineConfig()
    os.environ.update(engine_environment(settings))
    from vllm import LLM

    return LLM(str(MODEL), **engine_options(str(MODEL), settings))


def engine(rows: list[Row], *, in_process: bool = False, bare: bool = False) -> dict[str, Any]:
    if in_process:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    started = time.time()
    llm = llm_of_vllm()
    start_s = time.time() - started
    first = rows_of(WARM_UP, 50)
    llm.chat(chats(first), sampling(first, bare), use_tqdm=False)
    begun = time.perf_counter()
    done = llm.chat(chats(rows), sampling(rows, bare), use_tqdm=False)
    seconds = time.perf_counter() - begun
    tokens = sum(len(output.token_ids) for request in done for output in request.outputs)
    assert tokens == len(rows) * SAMPLES * TOKENS
    return {"rows_per_s": round(len(rows) / seconds, 2), "start_s": round(start_s, 2), "output_tokens": tokens}


def sequential(rows: list[Row]) -> dict[str, Any]:
    """One engine start for each of four samples, and one for the justification of the rows that differ."""
    with tempfile.TemporaryDirectory() as folder:
        said: list[list[str | None]] = []
        work = Path(folder, "work.json")
        for sample in range(SAMPLES):
            work.write_text(json.dumps(chats(rows)))
            texts = one_pass(work, TEMPERATURE, sample * len(rows))
            said.append([TASK.parse(text, row) for text, row in zip(texts, rows, strict=True)])
        judged = []
        for row, *answers in zip(rows, *said, strict=True):
            different = list(dict.fromkeys(answer for answer in answers if answer is not None))
            if len(different) > 1:
                judged.append(Prompts(TASK).justification(row, different))
        work.write_text(json.dumps(judged))
        one_pass(work, 0.0, 0)
    return {"justified": round(len(judged) / len(rows), 4)}


def one_pass(work: Path, temperature: float, first_seed: int) -> list[str]:
    """The responses of a new engine, in a process of its own, to the prompts in a file."""
    code = f"import sys, benchmarks.label as b; b.answer_file(sys.argv[1], {temperature}, {first_seed})"
    subprocess.run([sys.executable, "-c", code, str(work)], check=True, stdout=subprocess.DEVNULL)
    responses: list[str] = json.loads(work.read_text())
    return responses


def answer_file(work: str, temperature: float, first_seed: int) -> None:
    from vllm import SamplingParams

    asked = json.loads(Path(work).read_text())
    top = EngineConfig().top_logprobs
    shared = {"temperature": temperature, "max_tokens": TOKENS, "ignore_eos": True, "logprobs": top}
    each = [SamplingParams(**shared, seed=first_seed + number) for number in range(len(asked))]
    done = llm_of_vllm().chat(asked, each, use_tqdm=False)
    Path(work).write_text(json.dumps([request.outputs[0].text for request in done]))


def ray_data_llm(rows: list[Row], seeded: bool = True) -> dict[str, Any]:
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from semievol.runtime import cluster

    settings = EngineConfig()
    with tempfile.TemporaryDirectory() as folder:
        cluster.connect(run_config(folder), cpus=8)  # each of its stages wants one
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=str(MODEL),
            engine_kwargs=engine_options(str(MODEL), settings),
            runtime_env={"env_vars": engine_environment(settings)},
            placement_group_config={"bundles": [{"CPU": 1}]},
            concurrency=1,
            batch_size=64,
        ),
        preprocess=partial(_request_of, top=settings.top_logprobs),
        postprocess=lambda row: {"text": row["generated_text"], "tokens": row["num_generated_tokens"]},
    )
    asked = [
        {"messages": chat, "seed": sampling_seed(0, id_of(row), 0) + i if seeded else None}
        for row, chat in zip(rows, chats(rows), strict=True)
        for i in range(SAMPLES)
    ]
    arrived: list[tuple[float, int]] = []
    tokens = 0
    data = ray.data.from_items(asked, override_num_blocks=max(len(asked) // 64, 1))
    for batch in processor(data).iter_batches(batch_size=None, batch_format="pyarrow"):
        arrived.append((time.perf_counter(), len(batch)))
        tokens += sum(batch["tokens"].to_pylist())
    ray.shutdown()
    # What came with the first block was made while it started, or before: neither counts.
    (first, early), (last, _) = arrived[0], arrived[-1]
    steady = (len(asked) - early) / (last - first) / SAMPLES
    return {"rows_per_s": round(steady, 2), "output_tokens": tokens}


def _request_of(row: dict[str, Any], top: int) -> dict[str, Any]:
    shared = {"temperature": TEMPERATURE, "max_tokens": TOKENS, "ignore_eos": True, "logprobs": top}
    return {"messages": row["messages"], "sampling_params": shared | {"seed": row["seed"]}}


# Our own work around the engine.


class NullEngine(VLLMEngine):
    """Tokenizes prompts, hands out requests and reduces responses as ours does; vLLM's part has the responses at once."""

    figures = property(lambda self: {})

    def __init__(self, model: str, settings: EngineConfig, chat: Any = None) -> None:
        from transformers import AutoTokenizer
        from vllm.logprobs import FlatLogprobs, Logprob

        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self._batches = PromptBatches(self.tokenizer)
        self._template = ChatTemplate(self.tokenizer)
        self.max_model_len = 2048
        self._top_logprobs = settings.top_logprobs
        self._draws = True
        said = self.tokenizer.encode(
            "Answer: B, because that is what the text says of it and of all the others too.", add_special_tokens=False
        )[:TOKENS]
        top = FlatLogprobs()
        for token in said:
            top.append({token + i: Logprob(-1.0 - i) for i in range(self._top_logprobs + 1)})
        said_so = {"token_ids": said, "cumulative_logprob": -4.0, "logprobs": top, "finish_reason": "length"}
        self._ids, self._arriving, self._waiting, self._dead = itertools.count(), queue.SimpleQueue(), {}, None
        asked: list[str] = []

        def step() -> list[Any]:
            done = [
                SimpleNamespace(request_id=name, finished=True, outputs=[SimpleNamespace(**said_so)]) for name in asked
            ]
            asked.clear()
            return done

        self._engine = SimpleNamespace(add_request=lambda name, *_: asked.append(name), step=step)
        threading.Thread(target=self._loop, daemon=True).start()

    def close(self) -> None:
        pass


def overhead(rows: list[Row]) -> dict[str, Any]:
    table = table_of(rows)
    silent = SimpleNamespace(remote=lambda *_: None)
    labeling = Labeling(
        work=Pass(str(MODEL), None, (0,), last=True),
        panel=panel(),
        schema=PSEUDO_LABELED,
        key="engine.endpoint",
    )
    engine = NullEngine(str(MODEL), EngineConfig())
    labeler = Labeler(engine, labeling, SimpleNamespace(add=silent, report=silent))

    gc.collect()
    gc.freeze()  # as the actor does

    async def label() -> None:
        assert len(await labeler.answer(table)) == len(rows)

    asyncio.run(label())
    began, began_here = time.process_time(), time.thread_time()
    asyncio.run(label())
    here = time.thread_time() - began_here
    seconds = time.process_time() - began
    profile = cProfile.Profile(time.thread_time)
    profile.runcall(asyncio.run, label())
    parts = {"tokens of prompts and handing out requests, in their threads": seconds - here} | {
        name: share * here for name, share in shares_of(profile).items()
    }
    listed = sorted(parts.items(), key=lambda pair: -pair[1])
    each = 1e6 / len(rows)
    return {"us_per_row": round(seconds * each, 1), "parts": {name: round(part * each, 1) for name, part in listed}}


def shares_of(profile: cProfile.Profile) -> dict[str, float]:
    """Share of the time under some functions of the labeler, by name."""
    stats: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in stats.values())
    wanted = (
        "_request",
        "messages",
        "parse",
        "batch_decode",
        "_reduce",
        "from_pylist",
        "to_pylist",
        "verdict",
        "_to_record",
    )
    return {
        name: sum(one[3] for key, one in stats.items() if key[2] == name or name in key[2].split()) / total
        for name in wanted
    }


PARTS: dict[str, Any] = {
    "engine": engine,
    "engine_in_process": partial(engine, in_process=True),
    "engine_bare": partial(engine, bare=True),
    "engine_bare_in_process": partial(engine, in_process=True, bare=True),
    "ours": ours,
    "ray_data_llm": ray_data_llm,
    "ray_data_llm_unseeded": partial(ray_data_llm, seeded=False),
    "ours_cold": partial(ours, warm=False),
    "ours_justified": partial(ours, justify=True, warm=False),
    "sequential": sequential,
    "ours_score": partial(ours, mode="score"),
    "one_actor": partial(actors, count=1),
    "two_actors": partial(actors, count=2),
    "overhead": overhead,
}

if __name__ == "__main__":
    main()
