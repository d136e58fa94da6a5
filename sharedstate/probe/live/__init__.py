"""The probe of a live server: where its requests are answered, and what those places share.

In the server: `protocol` (orders and their limits), `place` (this interpreter),
`working` (what an order does there), `answering` (who may give orders), and the
doors `sharedstate.probe.wsgi` and `.asgi`; they load nothing heavy, since every
interpreter of the server pays for it.  At the operator's desk: `client` (one
request; `checked`, `records`: what is believed of its answer), `driving` (rounds
of them), `topology` (the house that they show), `judging` (what it proves),
`running` (all of that in order), and `wording`, `report` and `page` (for people).
"""
