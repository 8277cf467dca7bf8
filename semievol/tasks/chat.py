"""The task kind `chat`: the assistant's next turn in a conversation."""

from __future__ import annotations

from typing import ClassVar, Literal

from semievol.tasks.open_ended import OpenEnded


class Chat(OpenEnded):
    """Conversations of any number of turns, with or without a system message. The answer is the assistant's last turn.

    Files hold chats as lists of messages (`messages`, ShareGPT's `conversations`), as Alpaca's instruction, input and output,
    as prompt and completion, as texts that take turns, or as transcripts; `data.columns.messages` says more. An unlabeled
    chat ends with the user's turn. Answers are compared as those of open_ended.
    """

    unread: ClassVar = OpenEnded.unread | {"loss"}
    conversational: ClassVar[bool] = True
    instruction: ClassVar[str] = ""  # the conversation says what to do
    decision: ClassVar[str] = "Write the best reply: one of these, or a better one. Write the reply alone."

    kind: Literal["chat"] = "chat"  # type: ignore[assignment]
    loss: Literal["last", "all"] = "last"
    """What training teaches: the answer alone, or every turn of the assistant."""

    @property
    def all_turns(self) -> bool:
        return self.loss == "all"
