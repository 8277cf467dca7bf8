"""The names that people give to columns, without case, blanks and signs; the likeliest first."""

import re


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


QUESTIONS = _names(
    """question text sentence review content message comment utterance query tweet body reviewtext post statement document
    article passage description abstract headline title input prompt instruction problem hypothesis sentence1 texta text1
    question1 ticket email transcript note notes remark feedback request frage texte texto testo pregunta
    name"""
)
FIRST_ANSWERS = _names("label labels answer answers")
ANSWERS = _names(
    """category categories class classes target targets intent sentiment labelname labeltext topic topics tag tags genre genres
    emotion emotions polarity stance rating stars score gold gt groundtruth truth correctanswer correct answerkey answeridx
    finaldecision output response completion result solution summary spam isspam toxic highlights reference
    translation annotation klasse kategorie bewertung antwort etiqueta categoria categorie y"""
)
OPTIONS = _names("options choices candidates answerchoices endings alternatives")
CONTEXTS = _names("context passage paragraph article document background story evidence")
CHATS = _names("messages conversations conversation dialog dialogue contents turns chat data")
ASKED, SAID = _names("instruction prompt"), _names("output completion response")
# Two columns that make one text.
PAIRS = [
    (first, second)
    for first, others in {
        "title": "text body content description abstract review summary article",
        "subject": "body text content message description",
        "headline": "text body content shortdescription description",
        "summary": "description text",
        "query": "document passage",
        "premise": "hypothesis",
        "sentence1": "sentence2",
        "question1": "question2",
        "texta": "textb",
        "text1": "text2",
        "text": "textpair",
        "claim": "evidence",
        "question": "sentence",
        "name": "description",
        "instruction": "input",
    }.items()
    for second in others.split()
]
IDS = re.compile(
    r"(unnamed)?[\W\d]*|(row)?(id|index|idx|uuid|guid|key|hash|url|link|no|nr|number)|.*(id|uuid|_idx|timestamp|date)"
)
DATE = re.compile(r"\d{4}-\d\d-\d\d([ T].*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}")
