import pytest
import trio

from meshsat.http.asgi import Message, cancelled_by_disconnect, respond


async def test_the_watch_ends_what_is_inside_only_when_the_client_goes() -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.request", "body": b"", "more_body": False},
    ]
    gone = trio.Event()

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    finished = False
    async with cancelled_by_disconnect(receive):
        await trio.testing.wait_all_tasks_blocked()
        finished = True
    assert finished
    assert messages == []
    async with cancelled_by_disconnect(receive):
        gone.set()
        await trio.sleep_forever()


async def test_what_is_raised_inside_the_watch_leaves_it() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with cancelled_by_disconnect(trio.sleep_forever):
            raise ValueError("inside")
    assert raised.group_contains(ValueError, match="inside")


async def test_a_whole_response_is_two_messages() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await respond(send, 200, [(b"content-length", b"2")], b"ok")
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert (sent[0]["status"], sent[1]["body"]) == (200, b"ok")
