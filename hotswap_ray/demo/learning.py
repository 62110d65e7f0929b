"""The arbiter finds the best model of each task, and takes back one that is worse."""

from __future__ import annotations

from typing import Any

from hotswap_ray.demo.stage import Stage

WORST = "fast"
HARD, BEST_AT_HARD = "translate_fr", "quality"
CLEAREST = "capitals"
"""Where the worst model is worse by so much that chance cannot hide it from a short tour."""


def found_by_itself(stage: Stage) -> list[dict[str, Any]]:
    """Wait until every task has left the model that is worst at it; tell each decision."""
    reported: set[int] = set()

    def all_improved() -> bool:
        rows = stage.arbiter.decisions().to_dict("records")
        for row in sorted(rows, key=lambda row: row["id"]):
            if row["id"] not in reported and isinstance(row["swap_id"], str):
                reported.add(row["id"])
                stage.say(f"  [green]decided:[/] {row['sentence']}")
        serving = stage.serving()
        busy = stage.arbiter.status()["open_swaps"]
        return not busy and WORST not in serving.values() and serving[HARD] == BEST_AT_HARD

    stage.watch("The arbiter found a better model for every task", all_improved, 300)
    swaps = stage.arbiter.swaps().to_dict("records")
    return [row for row in swaps if row["requested_by"] == "autoswap"]


def explain(stage: Stage, subject: str) -> None:
    """What ``hotswap explain`` says."""
    stage.command(f"explain {subject}")
    explanation = stage.arbiter.explain(subject)
    stage.say(f"  {explanation['sentence']}")
    if change := explanation.get("what_would_change"):
        stage.say(f"  What would change it: {change}")


def worse_on_purpose(stage: Stage, task: str, model: str) -> str:
    """Force a worse model on a task; its golden prompts let it pass, its traffic does not."""
    stage.command(f"swap {task} {model} --bake-s 120")
    swap_id: str = stage.arbiter.force_swap(task, model, wait=True, bake_s=120.0)["swap_id"]
    stage.say(f"  {task} is served by {model} now; its old model stays warm")

    def is_rolled_back() -> bool:
        return bool(stage.arbiter.swap(swap_id)["phase"] == "rolled_back")

    stage.watch("and the arbiter took it back by itself", is_rolled_back, 150)
    stage.ended(stage.arbiter.swap(swap_id))
    return swap_id
