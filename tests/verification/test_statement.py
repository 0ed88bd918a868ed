from __future__ import annotations

import pytest

from rfdetr_core.base.git import public_address


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://example.org/models.git", "https://example.org/models.git"),
        ("https://ada:secret@example.org:8443/models.git?token=secret#secret", "https://example.org:8443/models.git"),
        ("https://secret@example.org/models.git", "https://example.org/models.git"),
        ("git@example.org:team/models.git", "ssh://example.org/team/models.git"),
        ("example.org:team/models.git", "ssh://example.org/team/models.git"),
        ("ssh://git:secret@example.org:22/team/models.git", "ssh://example.org:22/team/models.git"),
        ("/srv/git/models.git", None),
        ("../models.git", None),
        ("file:///srv/git/models.git", None),
        ("", None),
    ],
)
def test_the_address_of_a_repository_has_no_credentials_and_no_folder_of_this_machine(
    remote: str, address: str | None
) -> None:
    assert public_address(remote) == address
