"""What each reason to drop something means, in a sentence for readers of a report."""

from collections.abc import Mapping

from srl_swe.trajectories.formats.drops import NOTES, ROW_REASONS, Reason

EXPLANATIONS: Mapping[Reason, str] = {
    Reason.UNKNOWN_FORMAT: "No reader knows the row's format.",
    Reason.BAD_JSON: "The row is no valid JSON.",
    Reason.BAD_FIELD: "A field of the row is missing or is not what the format says.",
    Reason.NO_INSTANCE_ID: "The row does not say which instance it is about.",
    Reason.NO_PROBLEM_STATEMENT: "No problem statement was found, so that there is nothing to begin a prompt with.",
    Reason.NO_STEPS: "No step was left of the trajectory.",
    Reason.NO_TARGETS: "The trajectory has steps, but none may be learned from.",
    Reason.BAD_FILE: "The file could not be read.",
    Reason.ROW_TOO_LARGE: "The row is larger than the limit on one row.",
    Reason.DUPLICATE: "The same trajectory was read before.",
    Reason.NOT_RESOLVED: "The trajectory did not resolve its instance, and only those that did were asked for.",
    Reason.UNKNOWN_OUTCOME: "The file does not say whether the trajectory resolved its instance, which was asked for.",
    Reason.EXIT_STATUS: "The run ended otherwise than was asked for.",
    Reason.TOO_FEW_STEPS: "The trajectory has fewer steps than was asked for.",
    Reason.TOO_MANY_STEPS: "The trajectory has more steps than was asked for.",
    Reason.FORMAT_NOISE: "More of the trajectory's calls than allowed could not be parsed or are unknown.",
    Reason.LOOP: "The trajectory goes in a circle: one action brought the same observation too often.",
    Reason.EXCLUDED_INSTANCE: "The instance is on the list of those left out.",
    Reason.EXCLUDED_REPO: "The repository is left out, as those of SWE-bench's test split are unless asked for.",
    Reason.MALFORMED_CALL: "The call could not be parsed, so that there is no action.",
    Reason.UNKNOWN_CALL: "No shell command is known that does what the call did.",
    Reason.CONTROL_KEY: "The step pressed a key in a running process, which no command stands for.",
    Reason.NOT_EXECUTED: "The scaffold did not run the command, so that its observation says nothing about it.",
    Reason.MISSING_OBSERVATION: "The file does not tell what the action printed.",
    Reason.EARLY_SUBMIT: "The step submitted, yet the trajectory went on after it.",
    Reason.FABRICATED_SUBMIT: "The publisher wrote a submit that the agent did not give, where a limit ended the run.",
    Reason.REFUSED_CALL: "The scaffold refused the call, so that nothing was done.",
    Reason.SCAFFOLD_EXIT: "The scaffold, not the agent, ended the run here.",
    Reason.MASKED: "The publisher masked the step, or it belongs to a demonstration before the run.",
    Reason.REPEATED_ACTION: "The step repeats the action before it: it stays in histories, but is no target.",
    Reason.ACTION_TOO_LONG: "The action is longer than was asked for: it stays in histories, but is no target.",
    Reason.EMPTY_ACTION: "The action is empty: the step stays in histories, but is no target.",
    Reason.LAST_STEP: "The last step of a trajectory is no target by the paper's rule.",
    Reason.PROCESS_INPUT: "The step typed into a running process; the trajectory is cut before it.",
    Reason.SCAFFOLD_ERROR: "The scaffold failed here; the trajectory is cut before it.",
    Reason.KEPT_UNKNOWN_OUTCOME: "Kept, although the file does not say whether the trajectory resolved its instance.",
    Reason.PASSED_OVER_FILE: "A file in a named folder that holds no trajectory.",
    Reason.ADDED_SUBMIT: "Kept, with a last step that submits, which the file leaves unsaid.",
    Reason.CUT_OBSERVATION: "Kept, but the middle of a very long observation was left out.",
    Reason.REUSED_ID: "Kept under a new id, because another trajectory has the same one.",
}


def explain(reason: str) -> str:
    """Return the sentence of a reason."""
    known = reason in Reason.__members__.values()
    return EXPLANATIONS[Reason(reason)] if known else "A reason that this version of the program does not know."


def concerns(reason: str) -> str:
    """Return what a reason is about: "trajectory", "step", or "note" where nothing was dropped."""
    if reason in NOTES:
        return "note"
    return "trajectory" if reason in ROW_REASONS else "step"
