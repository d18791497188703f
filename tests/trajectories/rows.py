"""Rows of a published format that tests write into files, made here."""

import json


def smith_row(
    instance_id: str = "owner__name.0123abcd.func_basic__abcdefgh", *, commands: tuple[str, ...], **fields: object
) -> dict[str, object]:
    """Return a row in SWE-smith's xml encoding: an issue, commands with observations, a submit."""
    messages = [
        {"role": "system", "content": "You can use tools."},
        {"role": "user", "content": "<pr_description>\nIt fails.\n</pr_description>"},
    ]
    for command in (*commands, None):
        call = "<function=submit>\n</function>"
        if command is not None:
            call = f"<function=bash>\n<parameter=command>{command}</parameter>\n</function>"
        messages.append({"role": "assistant", "content": f"I look.\n\n{call}"})
        messages.append({"role": "user", "content": f"OBSERVATION:\nout of {command}"})
    return {"messages": messages, "instance_id": instance_id, "resolved": True, "model": "m", "patch": "", **fields}


def smith_lines(count: int, *, first: int = 0) -> str:
    """Return JSON lines of `count` different runs, on three instances of two repositories."""
    rows = (
        smith_row(
            f"owner__name{number % 2}.0123abcd.func_basic__abcdefg{number % 3}",
            commands=(f"ls {number}", f"cat {number}.py"),
            traj_id=f"run-{number}",
        )
        for number in range(first, first + count)
    )
    return "".join(json.dumps(row) + "\n" for row in rows)
