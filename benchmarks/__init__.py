"""Every backend beside its peers, in one run: `python -m benchmarks` (see docs/benchmarks.md).

    workloads   what is measured, one row each; the values it is measured with
    peers       who is measured: the backends, and what people use today
    measure     how: generated loops, interleaved rounds, intervals
    guard       what one contestant does wrong is a line, and the others go on
    parts       what is measured beside single operations; see there
    machine     where and when, and how much else went on
    results     what was found out, and its JSON
    run         one run, from opening everyone to removing every store
    targets     what the project has set itself
    offers      what our backends promise
    wording     figures in words
    report      the tables
    page        the page
    progress    what a run is at
    headline    the README's figures, from a report
    cli         the options
    compare     two revisions of ours, side by side

A module imports those above it only, but for `parts.registry` and `parts.tables`, which `run` and `report` take.
"""
