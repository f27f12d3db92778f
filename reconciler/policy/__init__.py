"""The policy decision: one question, one answer, and who gave it at which revision.

Here belongs what reads, checks and evaluates Rego, the rules that stand in for it, and the order in which engines are
asked. Not here: what the answer is used for (`router/`, `kinds/`), and which files a revision has (`kinds/policy/`).

    tokens -> module -> builtins -> bundle     Rego text to a checked bundle; pure
    rego -> operations -> worker | link        evaluation in a child process | the hub's end of it
    reads                                      which values of a question a policy can read; pure
    embedded; rewrite -> testing               the engine, and the Rego tests, on top of that child
    marks -> coverage; explain                 which rules held: in tests, and for one question
    builtin                                    rules from manifests alone; pure
    chain                                      who is asked, in which order, and what happens when nobody can answer
"""
