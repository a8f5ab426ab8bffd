"""One site's client as a pure state machine: leases, the contribution in flight, versions, epochs, votes.

The ranks decide at step boundaries when a window is full and push; the machine says whether they may. A
contribution is `pending` from the push until it is merged in a version this client holds, or discarded.
The base the ranks are given is always `G_version - pending`.
"""

from isthmus.outer.member.apply import apply
from isthmus.outer.member.plan import plan
from isthmus.outer.member.state import MemberState

__all__ = ["MemberState", "apply", "plan"]
