"""The reflection step: every answer is held against the profile, then kept, repaired or dropped.

First the facts themselves are counted again from the events; then every number, quotation, name and
direction in a statement has to be borne out by the facts that it cites. The writer may revise once what is
wrong; a statement that still does not hold is replaced by its facts' own sentences, or left out.

Source: arXiv 2602.14492, section 3.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qanchor.training.useru.recount import Claim, Recounter
from qanchor.training.useru.statements import Known, find_faults
from qanchor.training.useru.writer import Draft, Request, Sentence, Writer

Verdict = Literal["supported", "revised", "repaired", "dropped"]
_NO_FORM = "no answer in the form asked for"


@dataclass(frozen=True)
class Reflected:
    """An answer after reflection.

    Args:
        question: in words.
        answer: in words; empty if dropped.
        used: names of the facts that it rests on.
        verdict: supported as written; revised by its writer; repaired or dropped here.
        faults: what was wrong, statement by statement.
        draft: the answer as first written, where it is not the answer.
        statements: how many were checked.
        mended: how many of them were replaced or left out.
    """

    question: str
    answer: str
    used: tuple[str, ...]
    verdict: Verdict
    faults: tuple[str, ...] = ()
    draft: str = ""
    statements: int = 0
    mended: int = 0


class Reflection:
    """Checks what a writer hands in.

    Args:
        recounter: counts facts again.
        log_words: every word of the log, among which invented names are recognised.
        revisions: how often a writer may try again.
    """

    def __init__(self, recounter: Recounter, log_words: frozenset[str], revisions: int = 1) -> None:
        self._recounter = recounter
        self._log_words = log_words
        self._revisions = revisions

    def written(self, writer: Writer, request: Request, claim: Claim) -> Reflected:
        """The answer of a writer, checked.

        Args:
            writer: whom to ask.
            request: what; of its facts, those that the events refute are taken away first.
            claim: what the facts are about.
        """
        refuted = self._recounter.refuted(claim, request.facts)
        if refuted:
            request = replace(request, facts=tuple(f for f in request.facts if f.name not in refuted))
        errors = tuple(f"the events refute {name}" for name in refuted)
        if not request.facts:
            return Reflected(request.question, "", (), "dropped", errors)
        known = Known(frozenset(event.text for event in self._recounter.events(claim)), self._log_words)
        draft = writer.write(request)
        if draft is None:
            return Reflected(request.question, "", (), "dropped", (*errors, _NO_FORM))
        faults = _faults_of(draft, request, known)
        so_far = _first(draft, request, (*errors, *(fault for some in faults for fault in some)))
        for _ in range(self._revisions if any(faults) else 0):
            revised = writer.revise(request, draft, [fault for some in faults for fault in some])
            if revised is None:
                break
            draft, faults = revised, _faults_of(revised, request, known)
            so_far = replace(so_far, verdict="revised")
            if not any(faults):
                break
        return _mended(request, draft, faults, so_far)


def _first(draft: Draft, request: Request, faults: tuple[str, ...]) -> Reflected:
    text = _text(draft.answer)
    return Reflected(request.question, text, (), "supported", faults, text, len(draft.answer))


def _faults_of(draft: Draft, request: Request, known: Known) -> list[list[str]]:
    """The faults of the question, and then of each statement."""
    names = [fact.name for fact in request.facts]
    own = draft.question != request.question
    asked = find_faults(Sentence(draft.question, names), request, known) if own else []
    return [asked, *(find_faults(sentence, request, known) for sentence in draft.answer)]


def _mended(request: Request, draft: Draft, faults: Sequence[Sequence[str]], so_far: Reflected) -> Reflected:
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
    mended = sum(bool(wrong) for wrong in faults)
    verdict: Verdict = so_far.verdict if not mended else "repaired" if distinct else "dropped"
    draft_text = "" if so_far.draft == answer else so_far.draft
    return replace(
        so_far,
        question=question,
        answer=answer,
        used=used,
        verdict=verdict,
        draft=draft_text,
        mended=mended,
    )


def _text(sentences: Sequence[Sentence]) -> str:
    return " ".join(sentence.text.strip() for sentence in sentences)
