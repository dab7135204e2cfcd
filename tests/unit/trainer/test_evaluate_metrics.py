"""Metrics of generated answers."""

import numpy as np
import pytest
from sacrebleu import corpus_bleu

from finetune_trainer.evaluating.text_metrics import TEXT_METRICS, Answer, words

# Values of rouge-score 0.1.2 without stemming, which is the usual reference for ASCII text.
ROUGE = (
    ("the cat was found under the bed", "the cat was under the bed", 0.923077, 0.727273, 0.923077),
    ("police killed the gunman", "the gunman police killed", 1.0, 0.666667, 0.5),
    ("Red, blue and yellow.", "red blue yellow", 0.857143, 0.4, 0.857143),
    ("nothing in common", "other words", 0.0, 0.0, 0.0),
    ("", "an answer", 0.0, 0.0, 0.0),
)


def answer(text: str, *, finished: bool = True) -> Answer:
    return Answer(text, finished=finished)


@pytest.mark.parametrize(("text", "reference", "want_1", "want_2", "want_l"), ROUGE)
def test_rouge_is_what_the_usual_package_computes(
    text: str, reference: str, want_1: float, want_2: float, want_l: float
) -> None:
    got = [TEXT_METRICS[name]([answer(text)], [reference]) for name in ("rouge1", "rouge2", "rougeL")]
    assert got == pytest.approx([want_1, want_2, want_l], abs=1e-6)


def test_rouge_sees_words_of_every_script() -> None:
    assert words("Größe, 東京 и Москва!") == ["grösse", "東京", "и", "москва"]
    assert TEXT_METRICS["rouge1"]([answer("Москва")], ["москва"]) == 1.0


def test_bleu_over_rows_is_the_corpus_bleu_of_sacrebleu() -> None:
    texts = ["the cat sat on the mat today", "there is a dog", "completely different words here"]
    references = ["the cat sat on the mat", "there is a small dog", "nothing like it at all"]
    want = corpus_bleu(texts, [references]).score
    assert TEXT_METRICS["bleu"]([answer(t) for t in texts], references) == pytest.approx(want)


@pytest.mark.parametrize(
    ("text", "finished", "want"),
    [
        ("Paris", True, 1.0),
        (" Paris\n", True, 1.0),
        ("paris", True, 0.0),
        ("Paris, of course", True, 0.0),
        ("Paris", False, 0.0),
    ],
)
def test_exact_match_needs_the_whole_answer_and_its_end(text: str, finished: bool, want: float) -> None:
    assert TEXT_METRICS["exact-match"]([answer(text, finished=finished)], ["Paris"]) == want


def test_a_metric_of_all_rows_follows_from_the_sum_of_their_statistics() -> None:
    answers, references = [answer("a b c"), answer("x")], ["a b d", "y"]
    for name, metric in TEXT_METRICS.items():
        total = np.sum([metric.statistics(a, r) for a, r in zip(answers, references, strict=True)], axis=0)
        assert metric(answers, references) == pytest.approx(metric.value(total)), name
