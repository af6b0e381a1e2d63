"""Every check in plain words, with the remedy.

One table, `EXPLANATIONS`; texts name facts of the decision as `{fact}`. A test holds every check
that the code records against this table.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from muster.clock import format_time
from muster.model.decision import Decision

_DERIVE = "muster enrollment-group derive-key --group {group} {subject}"


class Explanation(NamedTuple):
    """What happened, why, and what to do about it."""

    title: str
    cause: str
    remedy: str


EXPLANATIONS: Final[dict[str, Explanation]] = {
    "assigned": Explanation(
        "The device was assigned to a hub",
        "The token was signed with {key} of {entry}. The {policy} allocation policy chose {hub} "
        "({substatus}).",
        "Nothing to do.",
    ),
    "enrollment-disabled": Explanation(
        "The individual enrollment is disabled",
        "The credentials are right, but the {entry} is disabled.",
        "If the device may come back: muster enrollment update {subject} --provisioning-status "
        "enabled (or muster device restore {subject} after a revoke).",
    ),
    "group-disabled": Explanation(
        "The enrollment group is disabled",
        "The credentials are right, but the {entry} is disabled.",
        "To let the group's devices in again: muster enrollment-group update {group} "
        "--provisioning-status enabled.",
    ),
    "no-hub-available": Explanation(
        "No hub is available for the device",
        "The {policy} allocation policy found no usable hub among: {candidates}.",
        "Link a hub (muster hub create or muster hub link), let it take part in allocation "
        "(muster hub update HOST --apply-allocation), or correct the hubs named by {entry}. Static "
        "allocation needs exactly one there: --hub HOST.",
    ),
    "invalid-identity": Explanation(
        "The hub cannot make the identity that the enrollment describes",
        "The hub {hub} did not accept the device: {reason}.",
        "Correct the initial twin or the device ID of {entry}: muster enrollment update or muster "
        "enrollment-group update. The device tries again by itself.",
    ),
    "hub-refused": Explanation(
        "The hub refused the identity",
        "The hub {hub} did not accept the device: {reason}.",
        "Check that the hub runs and that its connection string (muster hub show {hub}) has the "
        "rights RegistryWrite and ServiceConnect. The device tries again by itself.",
    ),
    "unknown-id-scope": Explanation(
        "The ID scope is not the one of this service",
        "The device used the ID scope {id_scope}; this service has {expected}.",
        "Set the device's ID scope to {expected} (muster info shows it).",
    ),
    "unknown-registration": Explanation(
        "Nothing is enrolled under this registration ID",
        "There is no individual enrollment for {subject}, and the signature fits no key derived "
        "from any enrollment group, nor any of the usual mistakes.",
        "Correct the registration ID; or muster enrollment create {subject}; or derive its key "
        "from a group: muster enrollment-group derive-key --group GROUP {subject}.",
    ),
    "token-missing": Explanation(
        "The device sent no token",
        "The request carried no SharedAccessSignature, and at a hub no client certificate either.",
        "Configure the device with a symmetric key; at a hub, a device with a registered "
        "thumbprint can have a client certificate instead. For provisioning, X.509 and TPM are not "
        "supported yet.",
    ),
    "tpm-not-enrolled": Explanation(
        "The device wants to prove itself with a TPM",
        "It sent the endorsement key of a TPM and no token. No TPM is enrolled: provisioning takes "
        "symmetric keys only.",
        "Configure the device with a symmetric key, its own or one derived from a group's.",
    ),
    "token-malformed": Explanation(
        "The token cannot be read",
        "What came as the token is not a SharedAccessSignature with sr, sig and se: {reason}.",
        "Check that the device's password is a token made from its key, not the key itself, and "
        "was not cut off or encoded twice. Calls of a service API are signed with a connection "
        "string (muster info --json); Bearer tokens are not accepted.",
    ),
    "token-expired": Explanation(
        "The token has expired",
        "The token expired {expired_for_s} seconds before the service's time {server_time} "
        "(its se is {token_expiry}).",
        "Compare the clock of the device, or of who called, with {server_time}: if it is behind "
        "by about that much, set it (NTP). Otherwise an old token is re-used; make a new one per "
        "attempt.",
    ),
    "wrong-key": Explanation(
        "The token was signed with a key the service does not know",
        "Neither key of {subject} at {service} gives this signature. For a registration the "
        "derived keys of every enrollment group were tried, too, and the usual mistakes: group "
        "key, undecoded key, other spelling, line end.",
        "Copy the key again: muster enrollment show --show-keys or muster enrollment-group "
        "derive-key before a registration, muster device show --show-keys for a hub. After a key "
        "was changed in its enrollment the device must register again.",
    ),
    "group-key-used-directly": Explanation(
        "The token was signed with the group key itself",
        "The device holds the {slot} key of enrollment group {group} instead of the key derived "
        "from it for {subject}.",
        f"Give the device the derived key: {_DERIVE}. Then roll the group key, as it was on a "
        "device.",
    ),
    "derived-from-other-spelling": Explanation(
        "The key was derived for another spelling of the registration ID",
        "The key was derived from group {group} for “{spelling}”, but the device registers as "
        "“{subject}”. Derivation uses the exact characters.",
        f"Derive it again for the exact ID: {_DERIVE}.",
    ),
    "derived-with-trailing-newline": Explanation(
        "The key was derived for the registration ID with a line end after it",
        "The key was derived from group {group} for “{subject}” followed by {whitespace}. Tools "
        "that read the ID with `echo` or from a file do that.",
        f"Derive it again without the line end: {_DERIVE}.",
    ),
    "key-used-undecoded": Explanation(
        "The key text was used without decoding it",
        "The signature was made with the base64 text of {key} as it stands, not with the bytes "
        "it stands for.",
        "Decode the key from base64 before signing; the official SDKs do so by themselves.",
    ),
    "derived-from-undecoded-group-key": Explanation(
        "The key was derived from the text of the group key",
        "The derivation used the base64 text of the {slot} key of group {group}, not the bytes it "
        "stands for.",
        f"Decode the group key before deriving, or let the service derive: {_DERIVE}.",
    ),
    "wrong-registration-in-token": Explanation(
        "The token is for another registration",
        "The token's sr is “{token_resource}”; this request needs “{expected}”.",
        "Make the token for exactly this ID scope and registration ID. Two devices may share a "
        "configuration, or the registration ID was changed without making a new token.",
    ),
    "wrong-key-name": Explanation(
        "The token names a policy",
        "The token's skn is “{key_name}”; a registration token has skn=registration or none.",
        "Sign with the device's own key, not with a connection string of an access policy.",
    ),
    "other-enrollment-key": Explanation(
        "The token was signed with another device's key",
        "The signature fits the enrollment {other}, not {subject}.",
        "Put {subject}'s own key on this device.",
    ),
    "barred-by-individual-enrollment": Explanation(
        "An individual enrollment bars the device from its group",
        "The key is right for group {group}, but the individual enrollment {subject}, which is "
        "{status}, comes first and has other keys.",
        "After a revoke: muster device restore {subject}. Otherwise give the device that "
        "enrollment's key, or let it in through the group: muster enrollment delete {subject}.",
    ),
    "invalid-registration-id": Explanation(
        "The registration ID breaks the rule",
        "“{subject}” is not 1 to 128 characters of A-Z a-z 0-9 - . _ : that begin with a letter "
        "or digit and end with a letter, digit or hyphen; or the ID in the body differs from the "
        "one in the address.",
        "Correct the registration ID on the device.",
    ),
    "unsupported-attestation": Explanation(
        "The enrollment asks for an attestation that is not supported yet",
        "The enrollment {entry} uses {attestation}; this version attests symmetric keys only.",
        "Use an enrollment with a symmetric key.",
    ),
    "wrong-certificate": Explanation(
        "The client certificate is not the registered one",
        "{subject} presented the certificate with the SHA-256 thumbprint {thumbprint} (SHA-1 "
        "{sha1}); neither thumbprint registered for it in {service} is that.",
        "If it is the right certificate: muster device update {subject} --thumbprint "
        "{thumbprint} (muster module update for a module). Otherwise put the registered "
        "certificate on the device.",
    ),
    "certificate-expected": Explanation(
        "The identity needs a client certificate",
        "{subject} sent a SAS token, but its authentication type is selfSigned.",
        "Configure the device with the certificate whose thumbprint is registered, or give the "
        "identity keys: muster device update {subject} --key-file FILE.",
    ),
    "certificate-not-expected": Explanation(
        "The identity does not authenticate with a certificate",
        "{subject} presented a client certificate and no token, but its authentication type is "
        "{attestation}.",
        "Configure the device with its key, or register the certificate: muster device update "
        "{subject} --thumbprint {thumbprint}.",
    ),
    "invalid-request": Explanation(
        "The request cannot be read",
        "{reason}",
        "Correct the request; the contract of the API says what it must hold.",
    ),
    "unknown-hub": Explanation(
        "The hub does not exist here",
        "The client asked for the hub {hub}; this instance has: {expected}.",
        "Use the host name in the device's connection string or assignment (muster hub list).",
    ),
    "unknown-device": Explanation(
        "The hub has no such device",
        "There is no device identity {subject} in {service}.",
        "Create it (muster device create) or let the device provision itself again. IDs are "
        "case-sensitive in a hub.",
    ),
    "unknown-module": Explanation(
        "The device has no such module",
        "There is no module identity {subject} in {service}.",
        "muster module create, or correct the module ID (IDs are case-sensitive in a hub).",
    ),
    "device-disabled": Explanation(
        "The device identity is disabled",
        "The credentials may be right, but {subject} is disabled in {service}.",
        "muster device update {subject} --status enabled, or muster device restore after a revoke.",
    ),
    "wrong-audience": Explanation(
        "The token is for something else",
        "The token's sr is “{token_resource}”; “{expected}” is needed.",
        "Make the token for exactly that. A device that was moved "
        "to another hub must provision again.",
    ),
    "authorization-missing": Explanation(
        "The call carried no token",
        "The call of {subject} at {service} has no Authorization header.",
        "Sign it with a connection string (muster info --json), as the SDKs and --login do.",
    ),
    "wrong-policy-key": Explanation(
        "The token was signed with a key its access policy does not have",
        "Neither key of the policy “{policy}” at {service} gives this signature.",
        "Copy the connection string again: muster info --json, or muster policy show {policy} "
        "--show-keys (for a hub with --hub). Services have different keys.",
    ),
    "policy-missing": Explanation(
        "The token names no access policy",
        "The token has no skn, and {service} lets only its access policies do this.",
        "Sign with a connection string that has a SharedAccessKeyName: muster info --json.",
    ),
    "unknown-policy": Explanation(
        "The access policy does not exist",
        "The token's skn is “{policy}”, and {service} has no such policy.",
        "muster policy list shows the policies; make a token with one of them.",
    ),
    "missing-right": Explanation(
        "The access policy does not grant this",
        "The policy “{policy}” lacks the right {needs}.",
        "Use a policy that has it, or add it: muster policy update.",
    ),
    "not-in-scope": Explanation(
        "The module may not call methods of this device",
        "{caller} called a method of {device_id}, which is neither its own device nor has that as "
        "its parent.",
        "Make the device a child of the edge device (its deviceScope), or call as a service.",
    ),
    "malformed-auth-chain": Explanation(
        "The chain over which an edge hub speaks cannot be read",
        "“{chain}” came as the auth-chain of {subject}. {reason}",
        "It is the device ID, its parent's, and so on up to the edge device that connects, with ; "
        "between; before that DEVICE/MODULE for a module.",
    ),
    "wrong-auth-chain": Explanation(
        "The chain over which an edge hub speaks is for another identity",
        "The auth-chain “{chain}” begins with {identity}; the client connects as {subject}.",
        "The chain must begin with the very device or module it is for; the edge hub makes it.",
    ),
    "unknown-edge-hub": Explanation(
        "Nobody can speak for the identity from there",
        "The auth-chain “{chain}” of {subject} ends with {actor}, which is no edge device of "
        "{service}: it has no module $edgeHub.",
        "Correct the chain, or make {actor} an edge device: muster device update {actor} --edge.",
    ),
    "wrong-edge-hub-token": Explanation(
        "The edge hub that speaks for the identity has no good token",
        "{subject} is spoken for by {actor}, whose token was refused: {reason} It must be for "
        "“{expected}”, signed with a key of that module.",
        "Look for the clock and the module's key on the edge device. An edge device that was "
        "deleted and made anew must provision itself again.",
    ),
    "broken-auth-chain": Explanation(
        "The edge hub may not speak for the identity",
        "The auth-chain of {subject} is “{chain}”, but {below} is not a child of the edge device "
        "{above} in {service}.",
        "If it is to be: muster device update {below} --parent {above}. An edge hub learns of a "
        "device that was moved within an hour, or with its method "
        "RefreshDeviceScopeIdentityCache.",
    ),
    "edge-device-disabled": Explanation(
        "An edge device between the identity and the hub is disabled",
        "The auth-chain of {subject} is “{chain}”, and {edge_device} is disabled in {service}.",
        "muster device update {edge_device} --status enabled, or muster device restore after a "
        "revoke; or give {subject} another parent.",
    ),
    "client-id-mismatch": Explanation(
        "The client ID does not fit the user name",
        "The MQTT client ID is “{client_id}”; the user name stands for “{subject}”.",
        "The client ID must be the device ID, or deviceId/moduleId, in exactly that spelling.",
    ),
    "malformed-username": Explanation(
        "The MQTT user name cannot be read",
        "“{username}” is neither HOST/DEVICE[/MODULE]/?api-version=… nor "
        "IDSCOPE/registrations/REGISTRATION/api-version=….",
        "Let the SDK make the user name, or follow the form above.",
    ),
    "wrong-sasl-user": Explanation(
        "The SASL user name is not the one the token is good for",
        "The user name is “{user}”; the token is one of {token_subject}.",
        "The user name is POLICY@sas.root.HUB with the policy of the token (its skn), or "
        "DEVICE@sas.HUB or DEVICE/MODULE@sas.HUB with a token for that identity.",
    ),
    "too-many-tokens": Explanation(
        "Too many tokens on one connection",
        "{subject} came after {limit} other tokens on the same AMQP connection.",
        "Spread the devices over more connections; the SDKs' pools have a size for that.",
    ),
    "address-not-found": Explanation(
        "The AMQP link's address does not exist",
        "A {role} link was attached to “{address}”, which stands for nothing here.",
        "Correct the address, or the direction of the link.",
    ),
    "wrong-blob-signature": Explanation(
        "The URL of a file was not made for it",
        "{reason} It was sent for {subject}.",
        "Use the URL as the service gave it; a device gets one for each file it uploads.",
    ),
    "expired-blob-token": Explanation(
        "The URL of a file has expired",
        "{reason} It was sent for {subject}.",
        "Ask for a new one; a device has an hour for an upload.",
    ),
    "missing-blob-permission": Explanation(
        "The URL of a file does not grant this",
        "{reason} It was sent for {subject}.",
        "A URL for an upload cannot delete. Back ends: muster file download, muster file delete.",
    ),
    "topic-not-allowed": Explanation(
        "The topic is not one of the client's own",
        "{subject} used the topic “{topic}”. A client may use the topics of its own identity "
        "only, and no wildcards but the documented ones.",
        "Correct the topic; the device ID in it is case-sensitive and not percent-encoded.",
    ),
    "message-too-large": Explanation(
        "A message was larger than the limit",
        "{subject} sent {size} bytes; the limit is {limit}.",
        "Split the message, or upload it as a file.",
    ),
    "too-many-subscriptions": Explanation(
        "Too many subscriptions",
        "{subject} asked for more than {limit} subscriptions on one connection.",
        "Subscribe to the documented topics only.",
    ),
    "connection-closed": Explanation(
        "The service closed a live connection",
        "Closed because: {reason}. The client {subject} was connected from {remote}.",
        "Too slow a reader: it did not take what it was sent; look at its network, and at what "
        "blocks its receive loop. An injected fault: muster fault list. Anything the client did "
        "wrong is named above; if the service could not store something, its log says why, and "
        "the client sends it again.",
    ),
    "connection-expired": Explanation(
        "The token of a live connection expired",
        "{subject} was connected longer than its token allowed (se was {token_expiry}).",
        "The official SDKs renew in time. Make a new token and connect again before it expires.",
    ),
    "throttled": Explanation(
        "The client asks too often",
        "Closed because: throttled. {subject} was slowed down, and in the end turned away: "
        "{reason}.",
        "Find out why it repeats: two devices with one identity, or an error it does not back "
        "off from. muster registration explain {subject} shows what came before.",
    ),
    "fault-injected": Explanation(
        "A fault was injected on purpose",
        "{subject} met the fault {fault} ({kind}), {times} times since the last record. Ordered by "
        "{by}; it lasts until {until}.",
        "Nothing is wrong. To end it now: muster fault delete {fault} {place}. To have none at "
        "all: muster fault disable {place}.",
    ),
    "taken-over": Explanation(
        "A newer connection took over",
        "{subject} connected again from {remote}; the older connection was closed.",
        "One connection per identity: if this repeats, two devices share one identity.",
    ),
}


class _Facts(dict[str, object]):
    def __missing__(self, key: str) -> str:
        return "(not recorded)"


def explain(decision: Decision) -> Explanation:
    """Put a decision into plain words."""
    texts = EXPLANATIONS.get(decision.check)
    if texts is None:
        return Explanation(
            f"{decision.operation} {decision.outcome}", f"Decided by: {decision.check}.", ""
        )
    facts = _Facts(
        {
            "subject": decision.subject,
            "service": decision.service,
            "server_time": format_time(decision.time),
        }
    )
    facts.update({name: value for name, value in decision.facts.items() if value is not None})
    return Explanation(*(text.format_map(facts) for text in texts))
