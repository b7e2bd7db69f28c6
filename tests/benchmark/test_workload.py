"""Prompts of a benchmark: the same for all sides, and no two alike."""

from __future__ import annotations

from ov_kvcrush.benchmark.workload import Workload, random_tokens

SEVERAL = Workload(prompt_tokens=40, answer_tokens=8, num_requests=3, next_turn_tokens=5)


def test_no_two_prompts_begin_alike_and_every_side_gets_the_same() -> None:
    seen = [
        tuple(prompt[:4]) for turn in range(20) for prompt in SEVERAL.prompts(turn, vocabulary=5000)
    ]
    assert len(set(seen)) == len(seen) == 60
    assert SEVERAL.prompts(7, 5000) == SEVERAL.prompts(7, 5000)
    assert all(len(prompt) == 40 for prompt in SEVERAL.prompts(7, 5000))


def test_a_shared_document_is_the_same_for_all_of_a_turn_and_another_in_the_next() -> None:
    shared = Workload(40, 8, num_requests=3, shared_tokens=30)
    first, second = (shared.prompts(turn, vocabulary=5000) for turn in (0, 1))
    assert all(len(prompt) == 40 for prompt in first)
    assert len({tuple(prompt[:30]) for prompt in first}) == 1
    assert len({tuple(prompt[30:34]) for prompt in first}) == 3
    assert first[0][:4] != second[0][:4]
    assert shared.title == "3 requests at once, 40 tokens in, the first 30 the same, 8 out"


def test_questions_are_not_the_prompts() -> None:
    questions = SEVERAL.questions(0, 5000)
    assert [len(question) for question in questions] == [5, 5, 5]
    assert not {tuple(q[:4]) for q in questions} & {tuple(p[:4]) for p in SEVERAL.prompts(0, 5000)}


def test_token_ids_are_the_models() -> None:
    assert max(random_tokens(1000, 0, vocabulary=300)) < 300
    assert min(random_tokens(1000, 0, vocabulary=300)) >= 10
    assert random_tokens(3, 0, vocabulary=5) == [4, 4, 4]


def test_a_sequence_is_longest_behind_its_last_token() -> None:
    assert Workload(100, 10).most_tokens == 110
    assert SEVERAL.most_tokens == 40 + 8 + 5 + 1


def test_titles_say_what_is_asked_for() -> None:
    assert Workload(4096, 64).title == "4,096 tokens in, 64 out"
    assert SEVERAL.title == "3 requests at once, 40 tokens in, 8 out, then 5 more in"
