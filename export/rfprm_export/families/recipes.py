"""The table of families that the exporter knows.

A row is data: how the text is written, where rewards are read, what the head is and where a checkpoint keeps it. Read
from the authors' code; `docs/families.md` says for each what it was tested against.
"""

from __future__ import annotations

from rfprm_export.families.family import WHOLE, Family, HeadTensors, Part
from rfprm_lite.aggregate import Aggregate
from rfprm_lite.bundle.pieces import Cut, Piece, Read, Slot, Special, Text, filled
from rfprm_lite.bundle.recipe import Chat, Cleaning, Head

QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
QWEN_MATH_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
FOVER_TASK = (
    "** Task **\nYour task is to evaluate the accuracy of each step in the provided solution to the above question. "
    'For each step, respond with "correct" if the reasoning is logically valid and mathematically sound, or if the '
    'step is a general statement or transition that does not contain reasoning. Respond with "incorrect" if the step '
    "includes any errors or flawed logic."
)
MEDPRM_SYSTEM = (
    "You are an evaluator assessing the logicality and validity of the reasoning in each step of the given "
    "explanation. In order to support the evaluation, the question and the explanation are provided. "
    "If the reasoning contains errors, output - after that step. If the reasoning in a step is logical and valid, "
    "output + after that step."
)
NO_REFERENCE = "There is no reference answer for this question."

PROBLEM, STEP, READ, CUT = Slot("problem"), Slot("step"), Read(), Cut()

START, END = Special("<|im_start|>"), Special("<|im_end|>")
EXTRA = Special("<extra_0>")


def _chatml(system: str) -> Chat:
    """ChatML: the steps stand in the assistant's turn."""
    roles = ("system", "user", "assistant")
    turns: dict[str, tuple[Piece, ...]] = {
        role: (START, Text(f"{role}\n"), Slot("content"), END, Text("\n")) for role in roles
    }
    return Chat(turns, opening=(START, Text("assistant\n")), system=system)


def _opening(chat: Chat, before: str = "", after: tuple[Piece, ...] = ()) -> tuple[Piece, ...]:
    """What a chat writes for a problem: the system message, then one of the user."""
    system = filled(chat.turns["system"], lambda _: chat.system or "")
    content = (Text(before), PROBLEM, *after) if before else (PROBLEM, *after)
    user = [part for piece in chat.turns["user"] for part in (content if isinstance(piece, Slot) else (piece,))]
    return (*system, *user, *chat.opening)


QWEN, QWEN_MATH = _chatml(QWEN_SYSTEM), _chatml(QWEN_MATH_SYSTEM)
ASSISTANT = _chatml("You are a helpful assistant.")

FIRST_OF_TWO = Head("linear", "softmax", (1.0, 0.0), good_above=0.5)
SECOND_OF_TWO = Head("linear", "softmax", (0.0, 1.0), good_above=0.5)
MLP_OF_TWO = Head("mlp", "softmax", (0.0, 1.0), good_above=0.5)
RAW = Head("linear", "none", (1.0,))

MLP = (("score.0.weight", "score.0.bias"), ("score.2.weight", "score.2.bias"))
SCORE, SCORE_BIAS = (("score.weight", ""),), (("score.weight", "score.bias"),)
V_HEAD = (("v_head.summary.weight", "v_head.summary.bias"),)

MULTI_TURN_FIRST = (Slot("step", "both"), Part("answer"), READ, Text("+"))
MULTI_TURN_STEP = (Part("next"), *MULTI_TURN_FIRST)

FAMILIES = (
    Family(
        name="reasonflux-prm-7b",
        opening=_opening(QWEN),
        step=(STEP, EXTRA, READ),
        expect="<extra_0>",
        head=MLP_OF_TWO,
        tensors=HeadTensors(MLP),
        aggregate=Aggregate("mean+final", alpha=1.0, final="last"),
        marks="score.0 and score.2 with 2 outputs, on qwen2; qwen2.5-math-prm has the same",
        source="Gen-Verse/ReasonFlux ReasonFlux_PRM/README.md; arXiv 2506.18896",
        models=("Gen-Verse/ReasonFlux-PRM-7B",),
        model_types=("qwen2",),
        chat=QWEN,
        asserted=True,
    ),
    Family(
        name="reasonflux-prm-1.5b",
        opening=(PROBLEM,),
        step=(Slot("text"), READ),
        head=Head("linear", "sigmoid", (1.0,), good_above=0.5),
        tensors=HeadTensors((("weight", "bias"),), files=("reward_head.pt",)),
        aggregate=Aggregate("last"),
        max_tokens=2048,
        cuts=True,
        marks="reward_head.pt beside the shards",
        source="Gen-Verse/ReasonFlux ReasonFlux_PRM/README.md and utils/rm_utils.py; arXiv 2506.18896",
        models=("Gen-Verse/ReasonFlux-PRM-1.5B",),
        alone=True,
    ),
    Family(
        name="qwen2.5-math-prm",
        opening=_opening(QWEN_MATH),
        step=(STEP, EXTRA, READ),
        expect="<extra_0>",
        head=MLP_OF_TWO,
        tensors=HeadTensors(MLP),
        aggregate=Aggregate("product"),
        marks="score.0 and score.2 with 2 outputs, on qwen2; reasonflux-prm-7b has the same",
        source="Qwen/Qwen2.5-Math-PRM-7B model card; arXiv 2501.07301",
        models=("Qwen/Qwen2.5-Math-PRM-7B", "Qwen/Qwen2.5-Math-PRM-72B", "Qwen/Qwen2.5-Math-7B-PRM800K"),
        model_types=("qwen2",),
        chat=QWEN_MATH,
        asserted=True,
        system=QWEN_MATH_SYSTEM,
    ),
    Family(
        name="sequence-classification",
        opening=(Part("open"), PROBLEM, Part("answer")),
        step=(Slot("text"), Part("end"), READ),
        head=RAW,
        tensors=HeadTensors(SCORE),
        aggregate=Aggregate("last"),
        split=WHOLE,
        marks="score.weight with 1 output and no bias; a chat template",
        source="transformers modeling_layers.py GenericForSequenceClassification; Skywork-Reward-V2 README.md",
        models=(
            "Skywork/Skywork-Reward-V2-*",
            "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2",
            "nvidia/AceMath-7B-RM",
            "any AutoModelForSequenceClassification with one label",
        ),
        alone=True,
        skips_pad=True,
    ),
    Family(
        name="skywork-o1-prm",
        opening=(Special("<|endoftext|>"), PROBLEM, Text("\n"), CUT),
        step=(STEP, CUT, Text("\n"), READ, CUT),
        blank_line=(STEP, CUT, Text("\n"), CUT),
        expect="\n",
        head=Head("linear", "sigmoid", (1.0,), good_above=0.5),
        tensors=HeadTensors(V_HEAD),
        aggregate=Aggregate("mean"),
        split="lines",
        cleaning=Cleaning(refuse=("\n",)),
        marks="v_head.summary in the shards, on qwen2",
        source="SkyworkAI/skywork-o1-prm-inference model_utils/prm_model.py and io_utils.py",
        models=("Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B", "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B"),
        model_types=("qwen2",),
        alone=True,
    ),
    Family(
        name="trl-prm",
        opening=(Part("bos"), PROBLEM, CUT),
        step=(STEP, CUT, Part("separator"), READ, CUT),
        separator="\n",
        head=SECOND_OF_TWO,
        tensors=HeadTensors(SCORE_BIAS),
        aggregate=Aggregate("min"),
        marks="score.weight with 2 outputs, and score.bias",
        source="huggingface/trl trl/experimental/prm/prm_trainer.py tokenize_row",
        models=(
            "trl-lib/Qwen2-0.5B-Reward-Math-Sheperd",
            "HuggingFaceH4/Qwen2.5-Math-1.5B-Instruct-PRM-0.2",
            "any AutoModelForTokenClassification with two labels",
        ),
        alone=True,
    ),
    Family(
        name="pure-prm",
        opening=(PROBLEM, CUT),
        step=(STEP, CUT, Text("\n"), READ, CUT),
        expect="\n",
        head=Head("linear", "softmax", (-1.0, 1.0), good_above=0.0),
        tensors=HeadTensors(SCORE_BIAS),
        aggregate=Aggregate("softmin", temperature=0.1),
        marks="named; the tensors are those of trl-prm",
        source="CJReinforce/PURE openrlhf/trainer/ppo_utils/experience_maker.py and utils/utils.py; arXiv 2504.15275",
        models=("jinachris/PURE-PRM-7B",),
    ),
    Family(
        name="rlhflow-prm",
        opening=(Part("open"), PROBLEM, Text(" ")),
        first=MULTI_TURN_FIRST,
        step=MULTI_TURN_STEP,
        head=FIRST_OF_TWO,
        tensors=HeadTensors(labels=("+", "-")),
        aggregate=Aggregate("mean"),
        marks="named; nothing but a language model's head, and a chat template of several turns",
        source="RLHFlow/RLHF-Reward-Modeling math-rm/prm_evaluate.py",
        models=("RLHFlow/Llama3.1-8B-PRM-Deepseek-Data", "RLHFlow/Llama3.1-8B-PRM-Mistral-Data"),
    ),
    Family(
        name="rlhflow-orm",
        opening=(Part("open"), PROBLEM, Text(" ")),
        step=(Slot("text"), Part("answer"), READ),
        head=FIRST_OF_TWO,
        tensors=HeadTensors(labels=("+", "-")),
        aggregate=Aggregate("last"),
        split=WHOLE,
        marks="named; as rlhflow-prm",
        source="RLHFlow/RLHF-Reward-Modeling math-rm/orm_evaluate.py",
        models=("RLHFlow/Llama3.1-8B-ORM-Deepseek-Data", "RLHFlow/Llama3.1-8B-ORM-Mistral-Data"),
    ),
    Family(
        name="math-shepherd",
        opening=(Part("bos"), PROBLEM, Text(" ")),
        step=(STEP, Text(" ки"), READ, Text("\n")),
        expect="▁ки",
        head=FIRST_OF_TWO,
        tensors=HeadTensors(labels=("+", "-")),
        aggregate=Aggregate("min"),
        split="lines",
        cleaning=Cleaning(refuse=(" ки", "▁ки"), number="Step {n}: "),  # SentencePiece writes a blank as ▁
        marks="named; nothing but a language model's head, and a tokenizer with the token ▁ки",
        source="peiyi9979/math-shepherd-mistral-7b-prm model card; arXiv 2312.08935",
        models=("peiyi9979/math-shepherd-mistral-7b-prm",),
    ),
    Family(
        name="versaprm",
        opening=(Part("bos"), PROBLEM, Text(" \n\n"), CUT),
        step=(STEP, Text(" \n\n\n\n"), READ, CUT),
        expect=" \n\n\n\n",
        head=SECOND_OF_TWO,
        tensors=HeadTensors(labels=("-", "+")),
        aggregate=Aggregate("min"),
        cleaning=Cleaning(refuse=(" \n\n\n\n",)),
        marks="named; nothing but a language model's head",
        source="UW-Madison-Lee-Lab/VersaPRM evaluation/prm_models/prm_llama.py, model_train/prm_datasets.py",
        models=("UW-Madison-Lee-Lab/VersaPRM", "dongboklee/dPRM-8B", "dongboklee/dPRM-14B"),
    ),
    Family(
        name="foverprm",
        opening=(Part("open"), Text("** Problem **\n"), PROBLEM, Text(f"\n\n{FOVER_TASK}\n\n** Sotluion **\n")),
        first=(STEP, Part("answer"), READ, Text("correct")),
        step=(Part("next"), STEP, Part("answer"), READ, Text("correct")),
        head=FIRST_OF_TWO,
        tensors=HeadTensors(labels=("correct", "incorrect"), first_token=True),
        aggregate=Aggregate("min"),
        marks="named; nothing but a language model's head, and a chat template of several turns",
        source="psunlpgroup/FoVer src/prm/preprocessing.py and postprocessing.py",
        models=("ryokamoi/Llama-3.1-8B-FoVer-PRM", "ryokamoi/Qwen-2.5-7B-FoVer-PRM"),
    ),
    Family(
        name="medprm",
        # The rendered text begins with the template's own BOS, and the authors' tokenizer call adds another.
        opening=(Part("bos"), Part("open"), Text("Question: "), PROBLEM, Text("\n\nExplanation: ")),
        step=(STEP, Special(" ки"), READ, Text(" ")),
        expect=" ки",
        head=FIRST_OF_TWO,
        tensors=HeadTensors(labels=(" +", " -")),
        aggregate=Aggregate("min"),
        system=MEDPRM_SYSTEM,
        marks="named; nothing but a language model's head, a chat template, and the special token ' ки'",
        source="eth-medical-ai-lab/Med-PRM python/4_scoring_PRM.py",
        models=("dmis-lab/llama-3.1-medprm-reward-v1.0",),
    ),
    Family(
        name="er-prm",
        opening=(Part("bos"), PROBLEM, Text(" ")),
        step=(STEP, Text(" ки"), READ),
        expect=" ки",
        head=FIRST_OF_TWO,
        tensors=HeadTensors(labels=(" +", " -")),
        aggregate=Aggregate("min"),
        cleaning=Cleaning(refuse=(" ки",)),
        marks="named; nothing but a language model's head, and a tokenizer with the token ' ки'",
        source="RyanLiu112/compute-optimal-tts src/reason/inference/rm_call.py (a user's code); arXiv 2412.11006",
        models=("hanningzhang/Llama3.1-Math-PRM",),
    ),
    Family(
        name="qwen2.5-math-rm",
        opening=_opening(QWEN_MATH),
        step=(Slot("text"), END, Text("\n"), READ),
        expect="\n",
        head=Head("mlp", "none", (1.0,)),
        tensors=HeadTensors(MLP),
        aggregate=Aggregate("last"),
        split=WHOLE,
        marks="score.0 and score.2 with 1 output, on qwen2; universal-prm has the same",
        source="Red-Hat-AI-Innovation-Team/reward_hub reward_hub/hf/reward.py; Qwen/Qwen2.5-Math-RM-72B model card",
        models=("Qwen/Qwen2.5-Math-RM-72B", "Qwen/Qwen2-Math-RM-72B"),
        model_types=("qwen2",),
        chat=QWEN_MATH,
        asserted=True,
        system=QWEN_MATH_SYSTEM,
    ),
    Family(
        name="universal-prm",
        opening=(
            *_opening(
                ASSISTANT,
                after=(Text("\n\n###\n\nThe reference answer is: "), Slot("reference", default=NO_REFERENCE)),
            ),
            CUT,
        ),
        step=(Slot("steps"), Text("\n\n"), Part("eos"), READ),
        head=Head("mlp", "sigmoid", (1.0,)),
        tensors=HeadTensors(MLP),
        aggregate=Aggregate("last"),
        marks="score.0 and score.2 with 1 output, on qwen2; qwen2.5-math-rm has the same",
        source="infly/Universal-PRM-7B model card, as two users run it; arXiv 2502.11520",
        models=("infly/Universal-PRM-7B",),
        model_types=("qwen2",),
    ),
    Family(
        name="fin-prm",
        opening=(
            Text("##Question\n"),
            PROBLEM,
            Text("\n"),
            Slot("choices", default=""),
            Text("\n\n##Thinking Trajectory\n"),
        ),
        step=(STEP, EXTRA, READ),
        closing=(Text("\n\n##Final Answer\n"), STEP, Special("<extra_1>"), READ),
        head=MLP_OF_TWO,
        tensors=HeadTensors(MLP),
        aggregate=Aggregate("mean+final", alpha=1.0, final="last"),
        max_tokens=8192,
        marks="score.0 and score.2 with 2 outputs, on qwen3; the tokens <extra_0> and <extra_1>",
        source="aliyun/qwen-dianjin DianJin-PRM/src/prm_train.py",
        models=("DianJin/Fin-PRM",),
        model_types=("qwen3",),
        alone=True,
    ),
    Family(
        name="value-head-rm",
        opening=(Part("open"), PROBLEM, Part("answer")),
        step=(Slot("text"), Part("end"), READ),
        head=RAW,
        tensors=HeadTensors(V_HEAD, files=("value_head.safetensors", "value_head.bin")),
        aggregate=Aggregate("last"),
        split=WHOLE,
        marks="value_head.safetensors or value_head.bin beside the shards; a chat template",
        source="hiyouga/LLaMA-Factory src/llamafactory/model/model_utils/valuehead.py",
        models=("reward models of LLaMA-Factory",),
        alone=True,
    ),
    Family(
        name="marker-prm",
        opening=(Part("bos"), PROBLEM, Text(" ")),
        step=(STEP, Text(" "), Part("separator"), READ, Text("\n")),
        head=FIRST_OF_TWO,
        tensors=HeadTensors(),
        aggregate=Aggregate("min"),
        needs=("separator", "labels"),
        marks="named, with --marker and --labels; nothing but a language model's head",
        source="OpenRLHF openrlhf/cli/train_prm.py --placeholder_token, --reward_tokens",
        models=("PRMs of OpenRLHF, and others that are trained on a marker and two label tokens",),
    ),
    Family(
        name="one-label-prm",
        opening=(Part("bos"), PROBLEM, CUT),
        step=(STEP, CUT, Part("separator"), READ, CUT),
        head=RAW,
        tensors=HeadTensors(SCORE_BIAS),
        aggregate=Aggregate("min"),
        needs=("separator", "activation"),
        source="transformers modeling_layers.py GenericForTokenClassification, trained as TRL's PRMTrainer writes text",
        marks="score.weight with 1 output, and score.bias; --separator and --activation",
        models=("any AutoModelForTokenClassification with one label",),
        alone=True,
    ),
)
