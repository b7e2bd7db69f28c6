"""How many users a machine can serve, from what a model costs on another: plain arithmetic.

Decoding is bounded by the memory's bandwidth as in :mod:`ov_kvcrush.benchmark.roofline`, what one
thread does by G. Amdahl's law (1967), how long a step takes beside others by processor sharing, and
how uneven users lie on machines by M. Raab and A. Steger's bound on balls in bins (1998).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Machine:
    """A machine, or what a process may use of one.

    Attributes:
        cores: that compute.
        bandwidth: bytes a second that they read together.
        memory_bytes: of it.
    """

    cores: int
    bandwidth: float
    memory_bytes: float


@dataclass(frozen=True)
class CutCosts:
    """What a budget makes of them.

    Attributes:
        budget: tokens that are kept.
        kept_bytes: of a sequence's cache behind its last token.
        peak_bytes: of it while it is read, at most.
        read_seconds: a token of a prompt, cuts included; the same however long the text is.
    """

    budget: int
    kept_bytes: float
    peak_bytes: float
    read_seconds: float


@dataclass(frozen=True)
class Costs:
    """What a model costs on a machine, by one engine.

    Attributes:
        machine: where.
        weight_bytes: that a step multiplies with.
        resident_bytes: of the process beside its KV cache.
        step_seconds: of a decode step of one sequence, beside the reading of its cache.
        serial_seconds: of it by one thread, however many there are.
        sequence_serial_seconds: that each further sequence adds to those.
        product_seconds: that its products add to a step, by all cores.
        kv_seconds: a byte of keys and values that a step reads.
        kv_bytes_per_token: of a cache of which nothing is evicted.
        read_seconds: a token of a prompt, without the attention to those before it.
        read_growth: seconds that it takes more for each token before it.
        cut: where a budget is kept to; None where it was not measured.
    """

    machine: Machine
    weight_bytes: float
    resident_bytes: float
    step_seconds: float
    serial_seconds: float
    sequence_serial_seconds: float
    product_seconds: float
    kv_seconds: float
    kv_bytes_per_token: float
    read_seconds: float
    read_growth: float
    cut: CutCosts | None = None

    def on(self, machine: Machine) -> Costs:
        """The same on another machine.

        What computes gets faster with the cores, down to where the memory cannot deliver what a
        step reads; what one thread does stays.
        """
        faster = self.machine.cores / machine.cores
        shared = (self.step_seconds - self.serial_seconds) * faster + self.serial_seconds
        cut = self.cut
        return replace(
            self,
            machine=machine,
            step_seconds=max(shared, self.weight_bytes / machine.bandwidth),
            product_seconds=self.product_seconds * faster,
            kv_seconds=max(self.kv_seconds * faster, 1 / machine.bandwidth),
            read_seconds=self.read_seconds * faster,
            read_growth=self.read_growth * faster,
            cut=cut and replace(cut, read_seconds=cut.read_seconds * faster),
        )

    def cores_worth_having(self, bandwidth: float) -> float:
        """Cores from which on a decode step of one sequence gets no faster; infinite for none.

        Args:
            bandwidth: bytes a second of the memory that they share.
        """
        parallel = self.weight_bytes / bandwidth - self.serial_seconds
        if parallel <= 0:
            return math.inf
        return self.machine.cores * (self.step_seconds - self.serial_seconds) / parallel

    def user_bytes(self, context: int, is_cut: bool) -> float:
        """Bytes of the cache of a user who has got to ``context`` tokens."""
        full = context * self.kv_bytes_per_token
        return min(full, self.cut.kept_bytes) if is_cut and self.cut else full

    def reading_seconds(self, num_tokens: int, before: int, is_cut: bool) -> float:
        """Seconds that all cores need to read ``num_tokens`` behind ``before`` others."""
        if is_cut and self.cut:
            return num_tokens * self.cut.read_seconds
        return num_tokens * (self.read_seconds + self.read_growth * (before + num_tokens / 2))

    def sequence_seconds(self, context: int, is_cut: bool) -> float:
        """Seconds that a step takes for one sequence more: its cache, products, and bookkeeping."""
        cache = self.kv_seconds * self.user_bytes(context, is_cut)
        return cache + self.product_seconds + self.sequence_serial_seconds

    def decode_seconds(self, num_sequences: int, context: int, is_cut: bool) -> float:
        """Seconds of a step of ``num_sequences``; the first one's products hide in the weights."""
        cache = self.kv_seconds * self.user_bytes(context, is_cut)
        others = (num_sequences - 1) * self.sequence_seconds(context, is_cut)
        return self.step_seconds + cache + others

    def together_seconds(
        self, num_requests: int, prompt_tokens: int, answer_tokens: int, is_cut: bool
    ) -> float:
        """Seconds until all of so many requests are answered that arrive together."""
        reading = num_requests * self.reading_seconds(prompt_tokens, 0, is_cut)
        context = prompt_tokens + answer_tokens // 2
        return reading + (answer_tokens - 1) * self.decode_seconds(num_requests, context, is_cut)


@dataclass(frozen=True)
class Habit:
    """What a user does, on average.

    Attributes:
        context: tokens that the chat has got to.
        new_tokens: of each turn that are read; all before them are in the cache.
        answer_tokens: of each turn.
        turn_seconds: from one turn of a user to the next one.
        token_seconds: that may pass between two tokens of an answer.
    """

    context: int
    new_tokens: int
    answer_tokens: int
    turn_seconds: float
    token_seconds: float


@dataclass(frozen=True)
class Capacity:
    """Users of one machine.

    Attributes:
        by_memory: whose caches have room.
        by_time: whose answers are as fast as they are to be.
        user_bytes: of the cache of one.
        answered: of a user's time, the most that an answer to it is being written.
    """

    by_memory: int
    by_time: int
    user_bytes: float
    answered: float

    @property
    def users(self) -> int:
        """That can be served."""
        return min(self.by_memory, self.by_time)

    @property
    def is_bound_by_memory(self) -> bool:
        """Whether there would be time for more of them."""
        return self.by_memory < self.by_time

    @property
    def sequences(self) -> int:
        """That a step has then, on average and at most."""
        return math.ceil(self.users * self.answered)


def capacity_of(costs: Costs, habit: Habit, is_cut: bool) -> Capacity:
    """Users that ``costs.machine`` can serve.

    Whose answer is being written shares the machine with the N - 1 others: of these
    n = (N - 1) · answer tokens · time a token / turn seconds are in the same step (Little's law),
    and in between the machine reads what they ask. So a token takes
    step / (1 - (N - 1) · work / turn seconds), where step is that of one sequence, and work what a
    turn takes in steps that others share; solved for N.

    Args:
        costs: of a model on the machine.
        habit: of each user.
        is_cut: whether caches are kept to the budget.
    """
    work = costs.reading_seconds(
        habit.new_tokens, habit.context, is_cut
    ) + habit.answer_tokens * costs.sequence_seconds(habit.context, is_cut)
    spare = 1 - costs.decode_seconds(1, habit.context, is_cut) / habit.token_seconds
    by_time = 1 + math.floor(habit.turn_seconds / work * spare) if spare >= 0 else 0
    user_bytes = costs.user_bytes(habit.context, is_cut)
    room = costs.machine.memory_bytes - costs.resident_bytes
    if is_cut and costs.cut:  # somebody is always reading
        room -= costs.cut.peak_bytes
    answered = habit.answer_tokens * habit.token_seconds / habit.turn_seconds
    return Capacity(max(0, math.floor(room / user_bytes)), by_time, user_bytes, min(1.0, answered))


def fleet_users(users: int, num_machines: int) -> int:
    """Users of several machines, each of which serves ``users``, where a user stays where he is.

    They are spread by a hash of their names: the fullest of ``num_machines`` has
    sqrt(2 · mean · ln machines) more than the mean, and must not have more than it can serve.
    As many as one serves can be served however they lie.
    """
    half = math.log(num_machines) / 2
    mean = (math.sqrt(half + users) - math.sqrt(half)) ** 2
    return max(users, math.floor(num_machines * mean + 1e-9))
