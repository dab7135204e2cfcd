"""Sampler, dropout, memory and signal handling on their own."""

import os
import signal
import threading

import pytest
import torch

from finetune_trainer.errors import PreemptedError
from finetune_trainer.models.adapters import FastDropout
from finetune_trainer.training import memory, preemption
from finetune_trainer.training.rows import LengthGroupedSampler

pytestmark = pytest.mark.trainer

LENGTHS = [3 + (i * 37) % 60 for i in range(1003)]


def batches(sampler: LengthGroupedSampler, size: int) -> list[list[int]]:
    order = [*sampler]
    return [order[i : i + size] for i in range(0, len(order), size)]


def test_every_row_comes_once_in_each_epoch_and_epochs_differ() -> None:
    sampler = LengthGroupedSampler(LENGTHS, 8, seed=1)
    first = [*sampler]
    sampler.set_epoch(1)
    second = [*sampler]
    assert sorted(first) == sorted(second) == [*range(1003)]
    assert first != second


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    torch.manual_seed(1)
    first = [*LengthGroupedSampler(LENGTHS, 8, seed=1)]
    torch.manual_seed(2)
    assert [*LengthGroupedSampler(LENGTHS, 8, seed=1)] == first
    assert [*LengthGroupedSampler(LENGTHS, 8, seed=2)] != first


def test_rows_of_a_batch_have_about_the_same_length_and_batches_are_shuffled() -> None:
    cut = batches(LengthGroupedSampler(LENGTHS, 8, seed=1), 8)
    padded = sum(len(batch) * max(LENGTHS[i] for i in batch) for batch in cut)
    assert padded < 1.05 * sum(LENGTHS)
    means = [sum(LENGTHS[i] for i in batch) / len(batch) for batch in cut[:-1]]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


def test_only_the_last_batch_is_short() -> None:
    assert [len(batch) for batch in batches(LengthGroupedSampler(LENGTHS, 8, seed=1), 8)][-1] == 1003 % 8


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_fast_dropout_drops_at_its_rate_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(500, 2001)
    dropped = FastDropout(rate)(x)
    assert (dropped == 0).float().mean().item() == pytest.approx(rate, abs=2e-3)
    assert dropped.mean().item() == pytest.approx(1.0, abs=5e-3)
    assert dropped.unique().numel() == 2
    columns = (dropped == 0).float().mean(dim=0)
    assert columns.std().item() == pytest.approx((rate * (1 - rate) / 500) ** 0.5, rel=0.1)


def test_fast_dropout_repeats_with_the_random_state_and_is_silent_in_evaluation() -> None:
    dropout, x = FastDropout(0.5), torch.ones(7, 13)
    torch.manual_seed(3)
    first = dropout(x)
    assert not torch.equal(dropout(x), first)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert dropout.eval()(x) is x
    assert FastDropout(0.0)(x) is x


def test_the_peak_forgets_what_was_freed_before_it_was_reset() -> None:
    held = bytearray(os.urandom(1)) * (256 * 2**20)
    large = memory.peak_bytes()
    del held
    memory.reset_peak()
    assert memory.peak_bytes() < large - 128 * 2**20


def test_a_signal_is_remembered_and_named_later() -> None:
    with preemption.watched() as watch:
        watch.leave_if_requested("nothing")
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.requested
        with pytest.raises(PreemptedError, match="the pod was asked to stop; step 4 is kept"):
            watch.leave_if_requested("step 4 is kept")


def test_outside_the_main_thread_no_handler_is_installed() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def body() -> None:
        with preemption.watched():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [before]
