"""Plain chat rows for SFT: the prompt, and the expert's completion as the last assistant message."""

from srl_swe.curation.exports.target import Export, Place, Row, Target
from srl_swe.errors import MalformedCompletionError
from srl_swe.prompts import write
from srl_swe.types import Message, StepExample

_USAGE = """\
Each line is one object with `messages`, as OpenAI's chat format has it. Only the last message is to be learned.

TRL, with the loss on the completion alone, as `srl-swe train --method sft` has it:

```python
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

rows = load_dataset("json", data_files="train.jsonl", split="train")
trainer = SFTTrainer(
    model="MODEL",
    train_dataset=rows.map(
        lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}, remove_columns="messages"
    ),
    args=SFTConfig(output_dir="runs/sft", learning_rate=5e-6, max_length=None),
)
trainer.train()
```

axolotl:

```yaml
datasets:
  - path: train.jsonl
    ds_type: json
    type: chat_template
    field_messages: messages
    roles_to_train: [assistant]
```

LLaMA-Factory, in `dataset_info.json`:

```json
{"srl_swe": {"file_name": "train.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"},
 "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
          "system_tag": "system"}}}
```
"""


def chat_row(example: StepExample, prompt: list[Message], place: Place) -> Row:
    """Return the row of an example.

    Raises:
        MalformedCompletionError: the completion format has no place for an answer without a thought, or for thoughts
            and actions that hold its marks.
    """
    if not example.expert_thought.strip():
        raise MalformedCompletionError("the expert wrote no thought")
    try:
        completion = write(example.expert_thought, example.expert_action)
    except MalformedCompletionError:
        raise MalformedCompletionError("thought or action holds the marks of the completion format") from None
    return {"messages": [*prompt, {"role": "assistant", "content": completion}]}


def _usage(export: Export) -> str:
    return _USAGE


CHAT = Target(title="chat", row=chat_row, suffix=".jsonl", usage=_usage)
