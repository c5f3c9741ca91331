"""A person at a terminal: types answers to what the commands ask, and may do something before each."""


class Person:
    """Answers in the given order, then with enter.

    An answer is a text or a function, which is called and may return a text.
    """

    def __init__(self, monkeypatch, *answers):
        self.answers, self.asked = list(answers), []
        monkeypatch.setattr("hilrl_cli.lines.Lines.ask", lambda _lines, question: self.ask(question))

    def ask(self, question):
        """Answer a question."""
        self.asked.append(question)
        answer = self.answers.pop(0) if self.answers else ""
        return (answer() or "") if callable(answer) else answer
