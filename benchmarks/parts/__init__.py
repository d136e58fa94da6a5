"""What is measured beside single operations.

    room          what each part is given: where, how much, and whom to tell
    isolated      what runs in isolated interpreters, in a child process
    scaling       one worker against two
    light_open    what the first `open` costs a fresh interpreter
    worker        a worker of any kind, which does what it is told
    attach        how a worker opens a contestant
    crew          workers, started, told what to do, and ended
    manager       multiprocessing's manager, for one of the contestants
    servers       what some contestants need
    contenders    who contends, and in which kinds of workers
    contention    1 to 16 workers on the same keys; lost updates and torn reads
    stall         the longest operation of eight that contend for a minute
    waiting       hand-over of a lock; time until a watcher sees a write
    opening       what opening a store costs, beyond imports and by its size
    growth        time, memory and disk per entry, up to ten million
    group_commit  writes that are on disk before they return
    crash         kill a writer, open again, look for what was acknowledged
    registry      all of these, by name
    tables        the tables

A module imports those above it only.
"""
