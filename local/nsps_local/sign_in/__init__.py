"""Who sits at this machine's browser: a page to choose a role, before the console's pages.

In a deployment the Identity-Aware Proxy stands in this place. The console itself knows no sign-in:
this is part of `nsps up`, in no function's archive, and only ever listens on loopback. It forwards
to the console with the identity token of the person that was chosen.
"""

from nsps_local.sign_in.proxy import SignIn

__all__ = ["SignIn"]
