"""Owners of state: the control plane that writes the log, and the follower that folds it.

What lives here: mailbox, supervision, gateway actors, the follower, the barrier between a write and its readers. What
must not: rules of configuration (`domain`), SQL (`store`), HTTP.
"""

from trustgate.actors.control import ControlPlane, Entry, Executed
from trustgate.actors.follower import Follower
from trustgate.actors.mailbox import Mailbox, MailboxFull

__all__ = ["ControlPlane", "Entry", "Executed", "Follower", "Mailbox", "MailboxFull"]
