"""Tell the owner of a long run how it ended, through whatever service the environment names.

`WINNOW_ALERT_URLS` holds Apprise URLs (Slack, Telegram, Discord, mail, JSON webhook, …), separated by
spaces. They carry secrets: they are read from the environment alone and never printed.
"""

import logging
import os
import threading

_log = logging.getLogger(__name__)

VARIABLE = "WINNOW_ALERT_URLS"
PATIENCE_SECONDS = 5.0  # how long a run waits for a service that does not answer


def send(title: str, body: str) -> None:
    """Send a message to every service that `WINNOW_ALERT_URLS` names; none is fine too.

    Nothing that goes wrong here may break the run that it speaks of, or hold it up for more than
    `PATIENCE_SECONDS`: trouble is logged as a warning, without the URL.
    """
    urls = os.environ.get(VARIABLE, "").split()
    if not urls:
        return
    trouble: list[str] = []
    courier = threading.Thread(target=_deliver, args=(urls, title, body, trouble), daemon=True)
    courier.start()
    courier.join(PATIENCE_SECONDS)
    if courier.is_alive():
        trouble.append(f"no answer within {PATIENCE_SECONDS:.0f} s")
    for reason in list(trouble):
        _log.warning("alert %r was not delivered (%s): %s", title, VARIABLE, reason)


def _deliver(urls: list[str], title: str, body: str, trouble: list[str]) -> None:
    try:
        import apprise

        # Apprise writes URLs, secrets and all, into its own log.
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        for number, url in enumerate(urls, 1):
            service = apprise.Apprise()
            if not service.add(url):
                trouble.append(f"URL number {number} is not one that Apprise understands")
            elif not service.notify(title=title, body=body):
                trouble.append(f"the service of URL number {number} refused or failed")
    except Exception as error:  # a courier must not take the run down; its text could hold a URL
        trouble.append(type(error).__name__)
