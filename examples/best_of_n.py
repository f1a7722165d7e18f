"""Choose the best of several answers; what they share is computed once. Run: python examples/best_of_n.py"""

from rfprm_lite import PRM

problem = "John buys 6 cups for $9 each and 4 toys for $7 each. He pays with $100. How much money does he get back?"
costs = "The cups cost 6 * 9 = 54 dollars.\n\nThe toys cost 4 * 7 = 28 dollars.\n\n"
answers = [
    costs + "The total is 54 + 28 = 72 dollars.\n\nHe gets 100 - 72 = 28 dollars back.\n\nThe answer is 28.",
    costs + "The total is 54 + 28 = 82 dollars.\n\nHe gets 100 - 82 = 18 dollars back.\n\nThe answer is 18.",
    costs + "The total is 54 + 28 = 82 dollars.\n\nHe gets 100 - 54 = 46 dollars back.\n\nThe answer is 46.",
]

prm = PRM.from_pretrained("demo")
best = prm.best_of_n(problem, answers, aggregate="mean")
for i, score in enumerate(best.scores):
    print(f"{'*' if i == best.index else ' '} {score.reward:.3f}  {answers[i][-17:]}")
print(f"{best.tokens.computed} of {best.tokens.total} tokens computed, {best.tokens.reused} reused")
