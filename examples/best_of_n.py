"""Choose the best of several answers; what they share is computed once. Run: python examples/best_of_n.py"""

from rfprm_lite import PRM

problem = "John buys 3 cups for $12 each and 5 toys for $8 each. He pays with $150. How much money does he get back?"
costs = "The cups cost 3 * 12 = 36 dollars.\n\nThe toys cost 5 * 8 = 40 dollars.\n\n"
answers = [
    costs + "The total is 36 + 40 = 86 dollars.\n\nHe gets 150 - 86 = 64 dollars back.\n\nThe answer is 64.",
    costs + "The total is 36 + 40 = 76 dollars.\n\nHe gets 150 - 76 = 74 dollars back.\n\nThe answer is 74.",
    costs + "The total is 36 + 40 = 76 dollars.\n\nHe gets 150 - 36 = 114 dollars back.\n\nThe answer is 114.",
]

prm = PRM.from_pretrained("demo")
best = prm.best_of_n(problem, answers, aggregate="mean", exhaustive=True)
for i, score in enumerate(best.scores):
    print(f"{'*' if i == best.index else ' '} {score.reward:.3f}  {answers[i][-17:]}")
print(f"{best.tokens.computed} of {best.tokens.total} tokens computed, {best.tokens.reused} reused")
