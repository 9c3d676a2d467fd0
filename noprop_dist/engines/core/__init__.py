"""The coordinator's decisions: events in, commands out. No Ray, no clock, no thread and no disk of its own.

run              the state machine `Run.decide(events, now) -> commands`; read it first
events           all that may happen
commands         all that may be asked for, and who is who: slots, incarnations, requests
stage            the states of one stage, and every transition between them
round_queue      which round of a stage may be sent next
dispatch         sends rounds, and versions of a learned W_embed
assignment       which worker holds which stage, and which one moves
actor_pool       incarnations, calls in order, and silence
watched          stages and actors by their state, not looked for anew in every turn
failure_policy   what follows from a loss: a pure function
recovery         applies it
parts            what one run is made of
snapshots        the newest of each stage, and the queue of what is to be written
evaluations      checkpoints that wait to be measured
stopping         an end on request
journal          records and news
placement        what each worker asks of the cluster
drawing          who draws z
following        the driver's part: what it makes of its coordinator's answers
heartbeat        and of its silence
"""
