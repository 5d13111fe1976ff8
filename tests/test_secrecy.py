"""What looks secret is pushed to nobody unless the declaration says that it may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    column_property,
    configure_mappers,
    mapped_column,
    relationship,
)

from flask_livepush import ConfigError, LivePush
from flask_livepush.secrecy import looks_secret

SECRET = """
password passwd pwd pw passphrase password_hash passwordHash PasswordHash PASSWORD_HASH
_password password1 hashed_password encrypted_password passwordhash user_pass pw_hash
secret client_secret clientSecret webhook_secret secret_key secretKey oauthTokenSecret
token api_token apiToken access_token accesstoken refreshToken token2 token_value
last_token_used password_reset_token hash content_hash sha256Hash salt password_salt otp
otp_secret OTPSecret totp_seed api_key apiKey APIKey private_key session_key signing_key
recovery_codes jwt_token csrf_token fs_uniquifier fs_token_uniquifier alternative_id
card_pin author.password_hash token.value
"""
HARMLESS = """
id body author.name hashtag hash_tag hashTags tokenizer tokenizer_name secretary pinned
tokens_used used_tokens total_tokens max_tokens token_count token_type tokenExpiresAt
password_changed_at passwordChangedAt has_password is_secret key sort_key primary_key
keyboard asphalt compass passage passport boarding_pass bypass option monkey session_id
zip_code spinning dash prototype hashing
"""


@pytest.mark.parametrize("name", SECRET.split())
def test_names_look_secret(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize("name", HARMLESS.split())
def test_names_look_harmless(name: str) -> None:
    assert not looks_secret(name)


class PasswordType(sa.types.TypeDecorator[str]):
    """A type of its own for hashes, as libraries have them."""

    impl = sa.String
    cache_ok = True


class Models:
    """An account and what belongs to it, mapped anew for each test."""

    def __init__(self, livepush: LivePush) -> None:
        class Base(DeclarativeBase):
            pass

        class Account(Base):
            __tablename__ = "account"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str]
            password_hash: Mapped[str]
            apiToken: Mapped[str] = mapped_column(unique=True)  # noqa: N815
            signature: Mapped[str] = mapped_column("pwd_hash")
            mark: Mapped[str] = mapped_column(PasswordType)
            token: Mapped[bool]
            otp: Mapped[int]
            tokens: Mapped[int]
            team_id: Mapped[int]
            code = mapped_column("secret_code", sa.String)
            shown = column_property(sa.func.upper(code))

            @property
            def prefix(self) -> str:
                return self.password_hash[:4]

            @property
            def through(self) -> str:
                return self.prefix.upper()

            @property
            def secret(self) -> str:
                return self.name

            @property
            def has_password(self) -> bool:
                return bool(self.password_hash)

            @hybrid_property
            def hybrid(self) -> str:
                return self.apiToken

        class Note(Base):
            __tablename__ = "note"
            id: Mapped[int] = mapped_column(primary_key=True)
            author_id: Mapped[int] = mapped_column(sa.ForeignKey("account.id"))
            author: Mapped[Account] = relationship()

        self.livepush, self.Account, self.Note = livepush, Account, Note

    def room(self, pattern: str) -> Any:
        return self.livepush.room(pattern)(lambda user, **values: True)

    def track(self, model: Any = None, **declaration: Any) -> None:
        declaration.setdefault("rooms", self.room("team:<int:team_id>"))
        self.livepush.track(**declaration)(model or self.Account)


@pytest.fixture
def models() -> Models:
    return Models(LivePush())


@pytest.mark.parametrize(
    ("fields", "named", "via"),
    [
        (("password_hash",), "password_hash", None),
        (("apiToken",), "apiToken", None),
        (("signature",), "signature", "pwd_hash"),
        (("mark",), "mark", "PasswordType"),
        (("shown",), "shown", "secret_code"),
        (("otp",), "otp", None),
        ({"code": "password_hash"}, "code", "password_hash"),
        ({"password": "name"}, "password", None),
        ({"password": lambda row: ""}, "password", None),
        ({"apiToken": str}, "apiToken", None),
        (("secret",), "secret", None),
        (("prefix",), "prefix", "password_hash"),
        (("through",), "through", "password_hash"),
        (("hybrid",), "hybrid", "apiToken"),
    ],
    ids=str,
)
def test_refuses_fields_that_look_secret(
    models: Models, fields: Any, named: str, via: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        models.track(fields=fields)
    sentence = str(caught.value)
    assert f"{named!r} looks as if it held a secret" in sentence
    assert (f"(by {via!r})" in sentence) is (via is not None)
    assert f"allow_secret=({named!r},)" in sentence


@pytest.mark.parametrize(
    "fields",
    [
        ("token",),
        ("tokens",),
        ("has_password",),
        {"initial": lambda row: row.password_hash[0]},
    ],
    ids=str,
)
def test_lets_fields_pass_that_only_speak_of_one(models: Models, fields: Any) -> None:
    models.track(fields=fields)


def test_refuses_a_path_by_its_text(models: Models) -> None:
    with pytest.raises(ConfigError, match=r"'author\.password_hash' looks"):
        models.track(
            models.Note,
            rooms=models.room("of:<int:author_id>"),
            fields=("author.password_hash",),
        )


def test_refuses_a_path_by_the_column_at_its_end(models: Models) -> None:
    models.track(
        models.Note,
        rooms=models.room("of:<int:author_id>"),
        fields={"sign": "author.signature"},
    )
    with pytest.raises(ConfigError, match=r"'author\.signature' looks .*'pwd_hash'"):
        configure_mappers()


@pytest.mark.parametrize(
    "declaration",
    [
        lambda m: {"rooms": m.room("own:<apiToken>")},
        lambda m: {"rooms": m.room("own:<signature>")},
        lambda m: {"key": "apiToken"},
        lambda m: {"rooms": lambda row: row.apiToken, "columns": ("apiToken",)},
        lambda m: {
            "rooms": lambda row: None,
            "columns": ("id",),
            "of": m.room("shared:<share_token>"),
        },
    ],
    ids=["variable", "column behind it", "key", "columns of rooms=", "of="],
)
def test_refuses_rooms_and_keys_that_look_secret(
    models: Models, declaration: Callable[[Models], dict[str, Any]]
) -> None:
    with pytest.raises(ConfigError, match="looks as if it held a secret"):
        models.track(fields=("id",), **declaration(models))


def test_takes_columns_that_only_fields_read(models: Models) -> None:
    models.track(
        fields={"safe": lambda row: len(row.password_hash)}, columns=("password_hash",)
    )


@pytest.mark.parametrize("allow", [True, ("password_hash", "apiToken")])
def test_pushes_what_is_allowed(models: Models, allow: Any) -> None:
    models.track(
        rooms=models.room("own:<apiToken>"),
        fields=("id", "password_hash"),
        allow_secret=allow,
    )


def test_allows_what_is_named_and_nothing_else(models: Models) -> None:
    with pytest.raises(ConfigError, match="'apiToken' looks"):
        models.track(
            fields=("password_hash", "apiToken"), allow_secret=("password_hash",)
        )


@pytest.mark.parametrize("allow", ["password_hash", 1, (1,), None])
def test_refuses_an_allowance_that_is_none(models: Models, allow: Any) -> None:
    with pytest.raises(ConfigError, match="must be True, or a tuple"):
        models.track(fields=("id",), allow_secret=allow)


def test_refuses_them_in_push_changes_too(models: Models) -> None:
    rooms = models.room("team:<int:team_id>")
    given: dict[str, Any] = {"rooms": rooms, "fields": ("id", "password_hash")}
    with pytest.raises(ConfigError, match="'password_hash' looks"):
        models.livepush.push_changes(models.Account, **given)
    models.livepush.push_changes(models.Account, **given, allow_secret=True)


def test_rows_have_what_was_declared_and_nothing_else(models: Models) -> None:
    models.track(fields=("name",))
    account = models.Account(
        id=1, name="ada", password_hash="h", apiToken="t", signature="s", mark="m",
        token=True, otp=1, tokens=2, team_id=3,
    )  # fmt: skip
    assert models.livepush.row(account) == {"id": 1, "name": "ada"}
