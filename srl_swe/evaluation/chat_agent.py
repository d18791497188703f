"""A chat model in the multi-turn environment, with the prompts of training. Leaves out what is behind the model."""

from srl_swe.errors import MalformedCompletionError
from srl_swe.evaluation.acting import ActingEnvironment
from srl_swe.evaluation.agent_config import AgentConfig
from srl_swe.evaluation.chat_models import ChatModel
from srl_swe.prompts import PromptLimits, parse, render


class ChatAgent:
    """Asks a chat model for one command after the other."""

    def __init__(self, model: ChatModel, config: AgentConfig, limits: PromptLimits) -> None:
        """`limits` say how much of a context the prompts show."""
        self._model = model
        self._config = config
        self._limits = limits

    def act(self, environment: ActingEnvironment) -> str | None:
        """Act until the model submits or a limit ends the episode.

        Raises:
            EpisodeOverError: always; it says how the episode ended.
        """
        for number in range(self._config.max_steps * (self._config.max_malformed + 1)):
            environment.require_open()
            messages = render(environment.problem_statement, environment.history, self._limits)
            environment.first_prompt = environment.first_prompt or messages
            answer = self._model.complete(messages, seed=self._config.seed + number, budget=environment.budget)
            try:
                completion = parse(answer.text)
            except MalformedCompletionError as error:
                environment.refuse(answer.text, str(error), cut_off=answer.cut_off)
                if environment.num_malformed_in_a_row >= self._config.max_malformed:
                    environment.end("malformed", f"{self._config.max_malformed} malformed answers in a row")
                continue
            environment.run(completion.action, thought=completion.thought, completion=answer.text)
        environment.end("step_limit", "no more answers are asked for")
        return None
