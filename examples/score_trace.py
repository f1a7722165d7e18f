"""Score a reasoning trace: a thinking trajectory, then a response. Run: python examples/score_trace.py"""

from rfprm_lite import PRM

problem = "Anna has 15 cookies. She gets 9 more cookies. She keeps half of them. How many cookies are there in the end?"
response = """<think>
Anna now has 15 + 9 = 24 cookies.

Anna now has 24 / 2 = 14 cookies.
</think>

The answer is 14."""

prm = PRM.from_pretrained("demo")
score = prm.score(problem, response)
for step, reward in zip(score.steps, score.step_rewards, strict=True):
    print(f"{reward:.3f}  {step.part:8}  {step.text}")
print(f"{score.aggregate}: {score.reward:.3f}, final reward {score.final:.3f}")
print(f"{score.tokens.computed} of {score.tokens.total} tokens computed")
