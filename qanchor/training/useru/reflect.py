"""The reflection step: every answer is checked against the profile, then kept, repaired or dropped.

First the facts are counted again from the events; then every number, quotation, name and direction in a
statement is checked against the facts that it cites. The writer may revise a wrong answer once; a statement
that is still wrong is replaced by the sentences of its facts, or left out.

Source: arXiv 2602.14492, section 3.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qanchor.training.useru.recount import Claim, Recounter
from qanchor.training.useru.statements import UserTexts, find_faults
from qanchor.training.useru.writer import Draft, Request, Sentence, Writer

Verdict = Literal["supported", "revised", "repaired", "dropped"]
_NO_FORM = "no answer in the form asked for"


@dataclass(frozen=True)
class Reflected:
    """An answer after reflection.

    Args:
        question: question in words.
        answer: answer in words; empty if dropped.
        used: names of the cited facts.
        verdict: supported as written; revised by its writer; repaired or dropped by reflection.
        faults: faults of the statements, in order.
        draft: first version of the answer; empty where it is the answer.
        statements: number of checked statements.
        replaced: number of statements that were replaced or left out.
    """

    question: str
    answer: str
    used: tuple[str, ...]
    verdict: Verdict
    faults: tuple[str, ...] = ()
    draft: str = ""
    statements: int = 0
    replaced: int = 0


class Reflection:
    """Checks the answers of writers.

    Args:
        recounter: recounter of the facts.
        log_words: all words of the log, for the detection of invented names.
        revisions: number of revisions that a writer may make.
    """

    def __init__(self, recounter: Recounter, log_words: frozenset[str], revisions: int = 1) -> None:
        self._recounter = recounter
        self._log_words = log_words
        self._revisions = revisions

    def write(self, writer: Writer, request: Request, claim: Claim) -> Reflected:
        """The checked answer of a writer.

        Args:
            writer: writer of the answer.
            request: request to the writer; facts that the events refute are removed first.
            claim: events that the facts are about.
        """
        refuted = self._recounter.refuted(claim, request.facts)
        if refuted:
            request = replace(request, facts=tuple(f for f in request.facts if f.name not in refuted))
        errors = tuple(f"the events refute {name}" for name in refuted)
        if not request.facts:
            return Reflected(request.question, "", (), "dropped", errors)
        texts = UserTexts(frozenset(event.text for event in self._recounter.events(claim)), self._log_words)
        draft = writer.write(request)
        if draft is None:
            return Reflected(request.question, "", (), "dropped", (*errors, _NO_FORM))
        faults = _faults_of(draft, request, texts)
        so_far = _first(draft, request, (*errors, *_flat(faults)))
        for _ in range(self._revisions if any(faults) else 0):
            revised = writer.revise(request, draft, _flat(faults))
            if revised is None:
                break
            draft, faults = revised, _faults_of(revised, request, texts)
            so_far = replace(so_far, verdict="revised")
            if not any(faults):
                break
        return _repaired(request, draft, faults, so_far)


def _first(draft: Draft, request: Request, faults: tuple[str, ...]) -> Reflected:
    text = _text(draft.answer)
    return Reflected(request.question, text, (), "supported", faults, text, len(draft.answer))


def _faults_of(draft: Draft, request: Request, texts: UserTexts) -> list[list[str]]:
    """The faults of the question, and then of each statement."""
    names = [fact.name for fact in request.facts]
    reworded = draft.question != request.question
    of_question = find_faults(Sentence(draft.question, names), request, texts) if reworded else []
    return [of_question, *(find_faults(sentence, request, texts) for sentence in draft.answer)]


def _flat(faults: Sequence[Sequence[str]]) -> list[str]:
    return [fault for some in faults for fault in some]


def _repaired(
    request: Request, draft: Draft, faults: Sequence[Sequence[str]], so_far: Reflected
) -> Reflected:
    kept: list[Sentence] = []
    for sentence, wrong in zip(draft.answer, faults[1:], strict=True):
        if not wrong:
            kept.append(sentence)
            continue
        cited = [fact for name in sentence.facts if (fact := request.fact(name)) is not None]
        kept += [Sentence(fact.says, [fact.name]) for fact in cited]
    distinct = list({sentence.text: sentence for sentence in kept}.values())
    question = request.question if faults[0] else draft.question
    answer = _text(distinct)
    used = tuple(dict.fromkeys(name for sentence in distinct for name in sentence.facts))
    replaced = sum(bool(wrong) for wrong in faults)
    verdict: Verdict = so_far.verdict if not replaced else "repaired" if distinct else "dropped"
    draft_text = "" if so_far.draft == answer else so_far.draft
    return replace(
        so_far,
        question=question,
        answer=answer,
        used=used,
        verdict=verdict,
        draft=draft_text,
        replaced=replaced,
    )


def _text(sentences: Sequence[Sentence]) -> str:
    return " ".join(sentence.text.strip() for sentence in sentences)
