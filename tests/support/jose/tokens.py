"""Tokens by the ten thousand, each with what joserfc says of it, as JSON lines for tests/differential.rs.

    python tokens.py SEED FRESH MUTATED

The first line has the key set and what the verdicts rest on. Then come FRESH tokens that are signed as they stand, good
ones and odd ones, and MUTATED ones made from them without the key. The seed decides all but keys and signatures, which
are random by nature; a token that matters is told whole.
"""

import base64
import json
import random
import sys
import warnings

from joserfc import errors, jwt
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

NOW_S = 1_800_000_000
LEEWAY_S = 60
ISSUER = "https://login.acme.example/realms/main"
AUDIENCE = "https://api.acme.example"

# By kid: the key, and what it is used with.
KEYS = {
    "r": (RSAKey.generate_key(2048, {"kid": "r"}), ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
    "s": (RSAKey.generate_key(2048, {"kid": "s", "alg": "PS256", "use": "sig"}), ["PS256"]),
    "e": (ECKey.generate_key("P-256", {"kid": "e"}), ["ES256"]),
    "e2": (ECKey.generate_key("P-256", {"kid": "e2", "use": "sig", "alg": "ES256"}), ["ES256"]),
    "f": (ECKey.generate_key("P-384", {"kid": "f"}), ["ES384"]),
    "g": (ECKey.generate_key("P-521", {"kid": "g"}), ["ES512"]),
    "o": (OKPKey.generate_key("Ed25519", {"kid": "o"}), ["EdDSA"]),
}
SIGNERS = [(kid, algorithm) for kid, (_, algorithms) in KEYS.items() for algorithm in algorithms]
ALGORITHMS = sorted({algorithm for _, algorithm in SIGNERS})
PUBLIC = KeySet([type(key).import_key(key.as_dict(private=False)) for key, _ in KEYS.values()])
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def choose(jws):
    """The key for a token: by name, or the only one that fits, as Tollgate has it. joserfc checks that it fits."""
    header = jws.headers()
    kid, algorithm = header.get("kid"), header["alg"]
    if kid is not None:
        return PUBLIC.get_by_kid(kid, {"alg": algorithm, "use": "sig"})
    fitting = [kid for kid, (_, algorithms) in KEYS.items() if algorithm in algorithms]
    if len(fitting) != 1:
        raise errors.InvalidKeyIdError("several keys")
    return PUBLIC.get_by_kid(fitting[0])


# As lenient as it can be told to be, so that a refusal is one of substance.
READER = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
READER.max_header_length = READER.max_payload_length = READER.max_signature_length = 16 * 1024
CLAIMS = jwt.JWTClaimsRegistry(
    now=NOW_S,
    leeway=LEEWAY_S,
    iss={"essential": True, "value": ISSUER},
    aud={"essential": True, "value": AUDIENCE},
    sub={"essential": True},
    exp={"essential": True},
)


def verdict(token):
    """`accepted`, or what it was refused for: `signature`, `times`, or the name of another error."""
    try:
        CLAIMS.validate(jwt.decode(token, choose, registry=READER).claims)
    except errors.BadSignatureError:
        return "signature"
    except errors.ClaimError as error:
        claim = error.description or ""
        return "times" if any(name in claim for name in ("exp", "nbf", "iat", "not yet", "future")) else "claims"
    # Whatever it trips over, it does not accept.
    except Exception as error:  # noqa: BLE001
        return type(error).__name__
    return "accepted"


def encode(octets):
    if isinstance(octets, str):
        octets = octets.encode("utf-8", "surrogatepass")
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def decode(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def signed(kid, algorithm, header, payload):
    """A token with exactly these parts, as they are spelled."""
    message = f"{header}.{payload}"
    signature = JWSRegistry.algorithms[algorithm].sign(message.encode("utf-8", "surrogatepass"), KEYS[kid][0])
    return f"{message}.{encode(signature)}"


def good_claims(rng):
    return {
        "iss": ISSUER,
        "sub": f"u-{rng.randrange(1000)}",
        "aud": rng.choice([AUDIENCE, [AUDIENCE], ["https://other.example", AUDIENCE]]),
        "exp": NOW_S + rng.randrange(1, 3600),
        "iat": NOW_S - rng.randrange(3600),
        "jti": f"{rng.getrandbits(64):x}",
        "name": "".join(rng.choice("abc>?~\u00e9\u4e2d\U0001f600 ") for _ in range(rng.randrange(20))),
    }


def odd_time(rng):
    """A value for a date, most of them near where opinions change."""
    edge = NOW_S + rng.choice([-LEEWAY_S, LEEWAY_S, 0])
    return rng.choice(
        [
            edge + rng.randrange(-2, 3),
            edge + rng.choice([-1.5, -1, -0.999999, -0.5, -0.000001, 0.0, 0.000001, 0.5, 0.999999, 1.5]),
            NOW_S + rng.randrange(-7200, 7200),
            rng.choice([0, -1, -0.0, 1.5, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**20, -(2**63)]),
            rng.choice([1e300, -1e300, 9e18, 9.3e18]),
            rng.choice([None, True, False, "", str(NOW_S), f"{NOW_S}.5", [NOW_S], {}, "never"]),
        ]
    )


def odd_claims(rng, claims):
    kind = rng.randrange(8)
    if kind < 4:
        for name in rng.sample(["exp", "nbf", "iat"], rng.randrange(1, 3)):
            claims[name] = odd_time(rng)
    elif kind == 4:
        del claims[rng.choice(["iss", "sub", "aud", "exp", "iat"])]
    elif kind == 5:
        claims["iss"] = rng.choice([ISSUER + "/", ISSUER.upper(), [ISSUER], None, "", {"iss": ISSUER}, 1])
    elif kind == 6:
        claims["aud"] = rng.choice([AUDIENCE + "/", [], "", None, [[AUDIENCE]], [AUDIENCE, 1], {AUDIENCE: 1}, 1])
    else:
        claims["sub"] = rng.choice(["", None, 1, ["alice"], True, "a\u0000", "a\r\nb", {}])
    return claims


def odd_text(rng, text):
    """A claims set or header as a text that readers take differently."""
    member = rng.choice(
        ['"exp":9999999999', '"sub":"root"', '"\\u0065xp":9999999999', '"x":1e999', '"x":"\\ud800"', '"x":NaN']
    )
    return rng.choice(
        [
            lambda: text.replace("{", "{" + member + ",", 1),
            lambda: text[:-1] + "," + member + "}",
            lambda: text + rng.choice([" ", "\n", "x", "{}", "\0"]),
            lambda: rng.choice([" ", "\ufeff", "\n"]) + text,
            lambda: text[:-1] + ',"x":' + "[" * (depth := rng.choice([1, 10, 15, 16, 17, 40, 900])) + "]" * depth + "}",
            lambda: text[:-1] + rng.choice([",}", "", "}}", ",'x':1}"]),
        ]
    )()


def odd_header(rng, header):
    name, value = rng.choice(
        [
            ("typ", "JWT"),
            ("typ", "at+jwt"),
            ("typ", "AT+JWT"),
            ("typ", "logout+jwt"),
            ("typ", "dpop+jwt"),
            ("typ", 1),
            ("cty", "JWT"),
            ("crit", ["exp"]),
            ("crit", ["b64"]),
            ("crit", []),
            ("b64", True),
            ("b64", False),
            ("zip", "DEF"),
            ("enc", "A128GCM"),
            ("jwk", {"kty": "oct", "k": "AAAA"}),
            ("jku", "https://evil.example/keys"),
            ("x5t", "AAAA"),
            ("kid", 1),
            ("kid", None),
            ("kid", "E"),
            ("alg", "none"),
            ("alg", rng.choice(ALGORITHMS)),
            ("alg", ["ES256"]),
            ("x", rng.choice([None, 1, "y", [1], {"y": 1}])),
        ]
    )
    return {**header, name: value}


def fresh(rng):
    kid, algorithm = rng.choice(SIGNERS)
    header, claims = {"alg": algorithm, "kid": kid}, good_claims(rng)
    what = ["good"]
    if rng.random() < 0.1:
        del header["kid"]
        what.append("without kid")
    if rng.random() < 0.4:
        claims = odd_claims(rng, claims)
        what.append("odd claims")
    if rng.random() < 0.15:
        header = odd_header(rng, header)
        what.append("odd header")
    header, claims = json.dumps(header), json.dumps(claims, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1:
        claims = odd_text(rng, claims)
        what.append("odd text")
    if rng.random() < 0.03:
        header = odd_text(rng, header)
        what.append("odd header text")
    header, claims = encode(header), encode(claims)
    if rng.random() < 0.05:
        header, claims = rng.choice([(odd_spelling(rng, header), claims), (header, odd_spelling(rng, claims))])
        what.append("odd spelling")
    return ", ".join(what), signed(kid, algorithm, header, claims)


def odd_spelling(rng, part):
    """The same octets, or nearly, in another base64."""
    at = rng.randrange(len(part) + 1)
    last = ALPHABET[ALPHABET.index(part[-1]) ^ 1] if part and part[-1] in ALPHABET else "A"
    return rng.choice(
        [
            part + "=" * (-len(part) % 4),
            part + "=",
            part.replace("-", "+").replace("_", "/"),
            part[:-1] + last,
            part + "A",
            part + "AAAA",
            part[:at] + rng.choice([" ", "\n", "=", "~", "+", "%3D", "\u00e9"]) + part[at:],
            part[:at] + part[at + 1 :],
        ]
    )


def mutated(rng, pool):
    """A token that nobody signed, from one that somebody did, or from two."""
    _, token, _ = rng.choice(pool)
    parts = token.split(".")
    if len(parts) != 3 or not all(parts):
        return "no parts", token + "."
    header, payload, signature = parts
    kind = rng.randrange(16)
    try:
        if kind == 0:
            at = rng.randrange(len(token))
            return "one character", token[:at] + rng.choice(ALPHABET) + token[at + 1 :]
        if kind == 1:
            raw = bytearray(decode(signature))
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            return "signature bit", f"{header}.{payload}.{encode(bytes(raw))}"
        if kind == 2:
            raw = decode(signature)
            cut = rng.randrange(len(raw))
            return "signature cut", f"{header}.{payload}.{encode(rng.choice([raw[:cut], raw[cut:], raw + raw[:cut]]))}"
        if kind == 3:
            raw = decode(signature)
            half = len(raw) // 2
            zeros, ones = bytes(half), bytes([255]) * half
            halves = [zeros, ones, raw[:half], raw[half:]]
            other = rng.choice([b"", rng.choice(halves) + rng.choice(halves), raw[half:] + raw[:half]])
            return "signature replaced", f"{header}.{payload}.{encode(other)}"
        if kind == 4:
            raw = bytearray(decode(payload))
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            return "payload bit", f"{header}.{encode(bytes(raw))}.{signature}"
        if kind == 5:
            claims = json.loads(decode(payload))
            name = rng.choice(["sub", "exp", "aud", "iss", "admin"])
            claims[name] = rng.choice(["root", NOW_S + 9999, AUDIENCE, ISSUER, True])
            return "claim changed", f"{header}.{encode(json.dumps(claims))}.{signature}"
        if kind == 6:
            members = odd_header(rng, json.loads(decode(header)))
            return "header changed", f"{encode(json.dumps(members))}.{payload}.{signature}"
        if kind == 7:
            members = json.loads(decode(header))
            members["alg"], members["kid"] = rng.choice(SIGNERS)[1], rng.choice(list(KEYS))
            return "another key", f"{encode(json.dumps(members))}.{payload}.{signature}"
        if kind == 8:
            members = json.loads(decode(header))
            members["alg"] = rng.choice(["none", "None", "NONE", "nOnE", "HS256", "HS512", "", " ES256"])
            return "no key", f"{encode(json.dumps(members))}.{payload}.{rng.choice(['', signature])}"
        if kind == 9:
            return "spelling", ".".join(odd_spelling(rng, part) if rng.random() < 0.4 else part for part in parts)
        if kind == 10:
            _, other, _ = rng.choice(pool)
            other = (other.split(".") + ["", "", ""])[:3]
            place = rng.randrange(3)
            parts[place] = other[place]
            return "part of another", ".".join(parts)
        if kind == 11:
            rng.shuffle(parts)
            return "shuffled", ".".join(parts)
        if kind == 12:
            parts.insert(rng.randrange(4), rng.choice(["", "AAAA", signature]))
            return "a part more", ".".join(parts)
        if kind == 13:
            del parts[rng.randrange(3)]
            return "a part less", ".".join(parts)
        if kind == 14:
            # The payload's text changed, its meaning not.
            text = json.dumps(json.loads(decode(payload)), indent=rng.randrange(3))
            return "spaced out", f"{header}.{encode(text)}.{signature}"
        return "signature spelled", f"{header}.{payload}.{odd_spelling(rng, signature)}"
    except ValueError:
        return "not to be taken apart", token + rng.choice(["A", "=", "."])


def main():
    seed, fresh_count, mutated_count = (int(argument) for argument in sys.argv[1:])
    rng = random.Random(seed)
    warnings.simplefilter("ignore")
    out = sys.stdout
    rests_on = {"now_s": NOW_S, "leeway_s": LEEWAY_S, "issuer": ISSUER, "audience": AUDIENCE}
    print(json.dumps({"jwks": PUBLIC.as_dict(), **rests_on}), file=out)
    pool = []
    for _ in range(fresh_count):
        what, token = fresh(rng)
        pool.append((what, token, verdict(token)))
    pool_good = [row for row in pool if row[2] == "accepted"]
    rows = list(pool)
    for _ in range(mutated_count):
        what, token = mutated(rng, pool_good)
        rows.append((what, token, verdict(token)))
    for what, token, said in rows:
        print(json.dumps({"what": what, "token": token, "verdict": said}), file=out)


if __name__ == "__main__":
    main()
