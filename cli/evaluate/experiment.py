"""`qanchor-cli experiment`: plan, assign, analyse, simulate and evaluate experiments."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.evaluate.experiment_simulate import simulate
from cli.groups import command_group
from cli.output import JsonOption, print_json, print_table
from cli.scenarios import OutOption

if TYPE_CHECKING:
    from qanchor.experiments import Design, OffPolicy
    from qanchor.experiments.analysis import Analysis, MetricResult
    from qanchor.metrics import Interval

app = command_group("experiment", "Plan, assign, analyse and simulate experiments.")
_ARM = "NAME=SHARE"


@app.command()
def plan(
    baseline: Annotated[float | None, typer.Option(help="Present value of a proportion, in (0, 1).")] = None,
    deviation: Annotated[
        float | None, typer.Option(help="Standard deviation of the outcome of a mean.")
    ] = None,
    effect: Annotated[float | None, typer.Option(help="Smallest absolute difference to detect.")] = None,
    users: Annotated[
        int | None, typer.Option(min=4, help="Number of available users, to plan the detectable difference.")
    ] = None,
    significance: Annotated[float, typer.Option(help="Two-sided significance level.")] = 0.05,
    power: Annotated[float, typer.Option(help="Probability of detecting the effect.")] = 0.8,
    treated_share: Annotated[float, typer.Option(help="Share of users in the treatment.")] = 0.5,
    correlation: Annotated[
        float, typer.Option(help="Correlation of the outcome with the covariate of CUPED.")
    ] = 0.0,
    per_day: Annotated[
        float | None,
        typer.Option(min=0, metavar="USERS", help="Users that join per day, to plan the number of days."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Plan the number of users, or the detectable difference.

    Give --baseline for a proportion or --deviation for a mean, and --effect or --users.

    Example: qanchor-cli experiment plan --baseline 0.12 --effect 0.01 --correlation 0.5
    """
    import math

    from qanchor.errors import InputError
    from qanchor.experiments import Design

    if (baseline is None) == (deviation is None) or (effect is None) == (users is None):
        raise InputError(
            "the plan needs one of --baseline and --deviation, and one of --effect and --users",
            "For example --baseline 0.12 --effect 0.01.",
        )
    design = Design(significance, power, treated_share, correlation)
    if users is not None:
        row = _detectable(users, baseline, deviation, design)
    else:
        row = _sample_size(effect or 0.0, baseline, deviation, design)
    if per_day:
        row["days"] = math.ceil(row["users"] / per_day)
    row |= {"significance": significance, "power": power}
    if correlation:
        row["variance_left_by_cuped"] = design.variance_left
    if as_json:
        print_json(row)
    else:
        print_table("plan", [row])


def _detectable(
    users: int, baseline: float | None, deviation: float | None, design: "Design"
) -> dict[str, Any]:
    import math

    from qanchor.errors import InputError
    from qanchor.experiments import detectable_difference

    if baseline is not None and not 0 < baseline < 1:
        raise InputError(f"the base rate {baseline:g} is not between 0 and 1", "Give one that is.")
    spread = (deviation or 0.0) if baseline is None else math.sqrt(baseline * (1 - baseline))
    return {"users": users, "difference": detectable_difference(users, spread, design)}


def _sample_size(
    effect: float, baseline: float | None, deviation: float | None, design: "Design"
) -> dict[str, Any]:
    from qanchor.experiments import plan_means, plan_proportions

    if deviation is not None:
        size = plan_means(effect, deviation, design)
    else:
        size = plan_proportions(baseline or 0.0, effect, design)
    return {"effect": effect, "control": size.control, "treatment": size.treatment, "users": size.total}


@app.command()
def assign(
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the experiment; it is the salt.")],
    users: Annotated[
        Path, typer.Option(metavar="FILE", help="File of users: Parquet or CSV with user_id, or .txt.")
    ],
    arm: Annotated[
        list[str] | None,
        typer.Option(
            metavar=_ARM, help="Arm and its share; repeatable. Default: control=0.5 and treatment=0.5."
        ),
    ] = None,
    layer: Annotated[
        str,
        typer.Option(metavar="NAME", help="Layer; experiments on different parts of a layer share no user."),
    ] = "",
    begin: Annotated[
        float, typer.Option("--from", metavar="X", help="Start of the part of the layer, from 0 to 1.")
    ] = 0.0,
    end: Annotated[
        float, typer.Option("--to", metavar="X", help="End of the part of the layer, from 0 to 1.")
    ] = 1.0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Assign users to arms by a salted hash.

    The same name gives the same arms on every machine.

    Example: qanchor-cli experiment assign --name calls-2026-08 --users users.csv --out arms.csv
    """
    import numpy as np
    import pyarrow as pa

    from qanchor.experiments import Experiment, sample_ratio
    from qanchor.experiments import assign as assign_arms
    from qanchor.user_files import read_user_list, write_result

    shares = _shares(arm) or {"control": 0.5, "treatment": 0.5}
    ids = list(dict.fromkeys(read_user_list(users)))
    arms = assign_arms(Experiment(name, shares, layer, begin, end), ids)
    inside = np.flatnonzero(arms >= 0)
    counts = np.bincount(arms[inside], minlength=len(shares))
    columns = {"user_id": [ids[row] for row in inside], "arm": np.array(list(shares))[arms[inside]]}
    table = pa.table(columns, pa.schema([("user_id", "string"), ("arm", "string")]))
    if out:
        write_result(table, out)
    p_value = sample_ratio(counts.tolist(), list(shares.values())).p_value if len(inside) else None
    summary = [
        {"arm": each, "users": int(count), "share": share}
        for (each, share), count in zip(shares.items(), counts, strict=True)
    ]
    if as_json:
        result = {"name": name, "arms": summary, "left_out": len(ids) - len(inside), "p_value": p_value}
        print_json(result | ({"out": str(out)} if out else {"users": table.to_pylist()}))
        return
    print_table(f"{name}: {len(inside):,} of {len(ids):,} users take part", summary)
    if out:
        typer.echo(f"written to {out}")


@app.command()
def analyse(
    rows: Annotated[
        Path, typer.Argument(metavar="FILE", help="Parquet or CSV file with a row for each user.")
    ],
    metric: Annotated[
        list[str],
        typer.Option(metavar="COLUMN", help="Column, or NUMERATOR/DENOMINATOR of a ratio; repeatable."),
    ],
    covariate: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column from before the experiment, for CUPED; repeatable."),
    ] = None,
    arm_column: Annotated[str, typer.Option(metavar="COLUMN", help="Column of the arms.")] = "arm",
    control: Annotated[
        str, typer.Option(metavar="NAME", help="Arm that the others are compared with.")
    ] = "control",
    arm: Annotated[
        list[str] | None,
        typer.Option(metavar=_ARM, help="Arm and its planned share; repeatable. Default: equal shares."),
    ] = None,
    planned_users: Annotated[
        int | None,
        typer.Option(min=1, help="Planned number of users, for an interval that is valid at every look."),
    ] = None,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="Confidence level of intervals.")
    ] = 0.95,
    as_json: JsonOption = False,
) -> None:
    """Measure the effect of the treatment on each metric.

    The sizes of the arms are compared with their shares first.

    Example: qanchor-cli experiment analyse rows.parquet --metric drawdown --covariate balance_before
    """
    from dataclasses import asdict

    from qanchor.experiments.analysis import AnalysisRequest
    from qanchor.experiments.analysis import analyse as measure
    from qanchor.experiments.tables import read_rows

    request = AnalysisRequest(
        metric, covariate or (), arm_column, control, _shares(arm) or None, planned_users, confidence
    )
    analysis = measure(read_rows(rows), request)
    if as_json:
        print_json(asdict(analysis) | {"ratio_holds": analysis.ratio.is_sound})
    else:
        show_analysis(analysis)


@app.command()
def evaluate(
    log: Annotated[
        Path, typer.Argument(metavar="FILE", help="Parquet or CSV file with a row for each decision.")
    ],
    reward: Annotated[str, typer.Option(metavar="COLUMN", help="Column of the reward.")] = "reward",
    propensity: Annotated[
        str,
        typer.Option(metavar="COLUMN", help="Column of the probability with which the decision was taken."),
    ] = "propensity",
    target: Annotated[
        str,
        typer.Option(
            metavar="COLUMN", help="Column of the probability with which the evaluated policy takes it."
        ),
    ] = "target",
    predicted: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of the reward that a model predicts for the decision."),
    ] = None,
    predicted_target: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column of the reward that it predicts for the evaluated policy."
        ),
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Maximum weight; default: none.")] = None,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="Confidence level of intervals.")
    ] = 0.95,
    as_json: JsonOption = False,
) -> None:
    """Estimate the value of a policy on logged decisions.

    Another policy took the decisions, with known probabilities.

    Example: qanchor-cli experiment evaluate decisions.parquet --clip 20
    """
    from dataclasses import asdict

    from qanchor.experiments import LoggedDecisions
    from qanchor.experiments import evaluate as value
    from qanchor.experiments.tables import numbers, read_rows

    table = read_rows(log)
    decisions = LoggedDecisions(
        numbers(table, reward),
        numbers(table, propensity),
        numbers(table, target),
        numbers(table, predicted) if predicted else None,
        numbers(table, predicted_target) if predicted_target else None,
    )
    result = value(decisions, clip, confidence)
    if as_json:
        print_json(asdict(result))
    else:
        _show_policy(result)


def _show_policy(result: "OffPolicy") -> None:
    estimates = {
        "logging policy": result.logged,
        "inverse propensity": result.ips,
        "self-normalised": result.snips,
        "doubly robust": result.doubly_robust,
        "gain over the logging policy": result.gain,
    }
    print_table(
        f"{result.rows:,} decisions, worth {result.effective_rows:,.0f} of the policy's own",
        [{"mean reward": name} | _interval(each) for name, each in estimates.items() if each],
    )
    typer.echo(
        f"weights: mean {result.mean_weight:.3f}, largest {result.largest_weight:,.1f}, "
        f"clipped {result.clipped:.1%}"
    )
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)


app.command()(simulate)


def _shares(arms: list[str] | None) -> dict[str, float]:
    from qanchor.errors import InputError

    shares: dict[str, float] = {}
    for text in arms or []:
        name, _, share = text.partition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            shares[name] = float("nan")
        if not 0 < shares[name] <= 1:  # NaN neither
            raise InputError(f"--arm {text!r} is not {_ARM}", "Write it like --arm treatment=0.5.")
    return shares


def show_analysis(analysis: "Analysis") -> None:
    """Print an analysis as tables."""
    rows = [
        {"arm": name, "users": users, "expected": round(expected)}
        for (name, users), expected in zip(analysis.arms.items(), analysis.ratio.expected, strict=True)
    ]
    verdict = "as planned" if analysis.ratio.is_sound else "NOT as planned"
    print_table(f"arms: {verdict}, p = {analysis.ratio.p_value:.3g}", rows)
    print_table("effects", [_effect_row(result) for result in analysis.results])
    if any(result.always for result in analysis.results):
        print_table(
            "always-valid intervals",
            [
                {"metric": r.metric, "arm": r.arm, **_interval(r.always.difference), "p": r.always.p_value}
                for r in analysis.results
                if r.always
            ],
        )
    for note in analysis.notes:
        typer.echo(f"note: {note}")


def _effect_row(result: "MetricResult") -> dict[str, Any]:
    best, lift = result.best, result.best.lift
    return {
        "metric": result.metric,
        "arm": result.arm,
        "control": best.control.mean,
        "treated": best.treatment.mean,
        **_interval(best.difference, "difference"),
        "lift": f"{lift.value:+.1%} ({lift.low:+.1%} to {lift.high:+.1%})" if lift else None,
        "p": result.p_value,
        "CUPED": f"-{result.variance_cut:.0%}" if result.adjusted else "no",
    }


def _interval(interval: "Interval", name: str = "value") -> dict[str, float]:
    return {name: interval.value, "from": interval.low, "to": interval.high}
