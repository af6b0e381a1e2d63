"""AMQP 1.0 without I/O: the server's end of a connection.

What an endpoint needs, by module:

- `connection.ServerConnection`: one client; its owner answers the events of `receive`.
- `events`: all that an owner is told, and what each is answered with.
- `link.ReceivingLink`, `link.SendingLink`: the client sends, or receives.
- `deliveries.Delivery`, `deliveries.Sent`: one message in, or out.
- `messages`: what is in a payload. `types`: how AMQP's types look in Python.
- `performatives`: `Error`, `Source`, `Target`, `Accepted` and the other outcomes.
- `sasl`: mechanisms, and the credentials in a PLAIN response.

An owner that takes telemetry, and sends each device one message, all of it:

```python
for event in connection.receive(data):
    match event:
        case SaslInit():
            connection.sasl_accept()
        case Open():
            connection.open()
        case LinkAttached(link=ReceivingLink() as link) if link.address.endswith("/events"):
            link.accept(credit=100)
        case LinkAttached(link=SendingLink() as link):
            link.accept()
            link.send(messages.encode(Message(Data([b"hello"]))), context="greeting")
        case LinkAttached(link=link):
            link.detach(Error("amqp:not-found", "There is no such address."))
        case Delivery():
            take(messages.decode(event.payload))
            event.accept()
        case OutcomeReceived(sent=sent, state=state):
            done(sent.context, state)
            sent.settle()
transport.write(connection.outgoing())
```

Every answer may also come later, from wherever the owner is then; `wake` tells whoever owns the
transport that there is something to send. `muster.net.amqp` does all of this for real sockets.
"""
