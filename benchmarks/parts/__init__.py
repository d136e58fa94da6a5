"""What is measured beside single operations.

    room          what each part is given: where, how much, and whom to tell
    isolated      what runs in isolated interpreters, in a child process
    scaling       one worker against two
    light_open    what the first `open` costs a fresh interpreter

A module imports those above it only.
"""
