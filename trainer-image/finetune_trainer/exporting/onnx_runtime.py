"""Runs an exported ONNX model on this CPU: raw logits through ONNX Runtime, answers through onnxruntime-genai.

Measures, and judges nothing. The raw graph is fed in chunks through its key-value cache, as a server would feed it,
which also bounds memory.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FEED = 96
"""Tokens of a prompt that go through the graph at once."""
SPEED_PROMPT = 16
SPEED_TOKENS = 48


class OnnxModel:
    """The folder of an ONNX model with its genai_config.json, opened with `threads` threads."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(folder / decoder["filename"]), options, providers=["CPUExecutionProvider"]
        )
        self._decoder = decoder
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._outputs = [value.name for value in self._session.get_outputs()]

    def logits(self, input_ids: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Logits of every token, as (first position, float32 [tokens, vocabulary]) chunk by chunk."""
        cache = self._empty_cache()
        for start in range(0, len(input_ids), FEED):
            chunk = np.array([input_ids[start : start + FEED]], dtype=np.int64)
            outputs = self._run(chunk, start, cache)
            cache = self._as_past(outputs)
            yield start, outputs["logits"][0].astype(np.float32)

    def logits_at(self, input_ids: Sequence[int], positions: Sequence[int]) -> np.ndarray:
        """Logits at `positions`, float32 [positions, vocabulary]."""
        found = []
        for start, part in self.logits(input_ids):
            here = [p - start for p in positions if start <= p < start + len(part)]
            found.append(part[here])
        return np.concatenate(found)

    def _run(self, chunk: np.ndarray, start: int, cache: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        total = start + chunk.shape[1]
        feed = {
            "input_ids": chunk,
            "attention_mask": np.ones((1, total), dtype=np.int64),
            "position_ids": np.arange(start, total, dtype=np.int64)[None],
            **cache,
        }
        values = self._session.run(None, {name: value for name, value in feed.items() if name in self._inputs})
        return dict(zip(self._outputs, values, strict=True))

    def _empty_cache(self) -> dict[str, np.ndarray]:
        shape = (1, self._decoder["num_key_value_heads"], 0, self._decoder["head_size"])
        return {name: np.zeros(shape, dtype=np.float32) for name in self._inputs if name.startswith("past_")}

    @staticmethod
    def _as_past(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            f"past_key_values.{name.removeprefix('present.')}": value
            for name, value in outputs.items()
            if name.startswith("present.")
        }


class GenaiModel:
    """The same folder as an application opens it with onnxruntime-genai."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime_genai

        self._genai = onnxruntime_genai
        config = onnxruntime_genai.Config(str(folder))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
        self._model = onnxruntime_genai.Model(config)
        self._tokenizer = onnxruntime_genai.Tokenizer(self._model)

    def answer(self, prompt: Sequence[int], new_tokens: int) -> list[int]:
        """Greedy new token ids, with the end-of-sequence token where one came."""
        return list(self._generated(prompt, new_tokens))

    def tokens_per_second(self, prompt: Sequence[int]) -> float:
        """Decoding speed, without the first token, which pays for the prompt."""
        stamps = [time.perf_counter() for _ in self._generated(prompt[:SPEED_PROMPT], SPEED_TOKENS, go_on=True)]
        return (len(stamps) - 1) / (stamps[-1] - stamps[0])

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, as an application gets them."""
        return [int(token) for token in self._tokenizer.encode(text)]

    def render(self, messages: list[dict[str, str]]) -> str:
        """`messages` through the chat template, ready for an answer."""
        return str(self._tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True))

    def _generated(self, prompt: Sequence[int], new_tokens: int, *, go_on: bool = False) -> Iterator[int]:
        total = len(prompt) + new_tokens
        settings: dict[str, Any] = {"do_sample": False, "max_length": total, "repetition_penalty": 1.0}
        parameters = self._genai.GeneratorParams(self._model)
        parameters.set_search_options(**settings, min_length=total if go_on else 0)
        generator = self._genai.Generator(self._model, parameters)
        generator.append_tokens(np.array(prompt, dtype=np.int32))
        while not generator.is_done():
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])
