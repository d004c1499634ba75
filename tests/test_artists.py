"""Artists' and recordings' groups: one artist is one, however credited, and nothing else joins tracks."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genre_cls.tracks import folds
from genre_cls.tracks.artists import artist_groups, recordings
from genre_cls.tracks.catalogue import Track
from genre_cls.tracks.gtzan import gtzan_facts


def a_track(name: str, artist: str | None = None, repeats: str | None = None) -> Track:
    return Track(name, Path(name), "rock", artist, repeats)


def test_tracks_of_one_artist_or_one_recording_are_one_group_also_through_others() -> None:
    tracks = [
        a_track("1", "A"),
        a_track("2", "B", repeats="1"),
        a_track("3", "B"),
        a_track("4"),
        a_track("5", repeats="4"),
        a_track("6", repeats="a track that is not here"),
        a_track("7", "1"),
    ]
    numbers = artist_groups(tracks)
    assert numbers is not None
    assert len({*numbers[:3]}) == 1 and numbers[3] == numbers[4]
    assert len({*numbers}) == 4, "tracks 6 and 7 are groups of their own, whatever an artist is called"


def test_copies_of_a_recording_that_is_not_listed_itself_are_one_group() -> None:
    numbers = artist_groups([a_track("1", "A"), a_track("2", repeats="0"), a_track("3", repeats="0")])
    assert numbers is not None and numbers[0] != numbers[1] == numbers[2]


def test_an_artist_is_one_however_typed() -> None:
    names = ("Beyonc\u00e9", "Beyonce\u0301", "BEYONC\u00c9", " beyonc\u00e9 ", "Bjork")
    numbers = artist_groups([a_track(str(place), name) for place, name in enumerate(names)])
    assert numbers is not None and len(set(numbers[:4])) == 1 and len(set(numbers)) == 2


@pytest.mark.parametrize(
    ("credit", "artist"),
    [
        ("Earth, Wind & Fire", "Earth Wind and Fire"),
        ("Peter Tosh and Mick Jagger", "Peter Tosh"),
        ("Barbra Streisand and Donna Summer", "Donna Summer"),
        ("Aretha Franklin, Celine Dion, Mariah Carey, Shania Twain & Gloria Estefan", "Shania Twain"),
        ("Lauryn Hill and Bob Marley", "Bob Marley"),
        ("Earth, Wind & Fire feat. Philip Bailey", "earth wind & fire"),
        ("Simon & Garfunkel", "Simon and Garfunkel"),
        ("AC/DC", "AC-DC"),
        ("!!!", "! ! !"),
        ("Florence + the Machine", "Florence and The Machine"),
        ("A feat B", "B"),
        ("A ft. B", "B"),
        ("Drake feat. Rihanna", "Drake ft. Future"),
        ("Bach; Gould", "Bach; Hewitt"),
        ("Ann & Bob", "Bob feat. Cleo"),
    ],
)
def test_a_joint_credit_is_of_the_group_of_each_artist_however_typed(credit: str, artist: str) -> None:
    numbers = artist_groups([a_track("1", credit), a_track("2", artist), a_track("3", "Somebody Else")])
    assert numbers is not None and numbers[0] == numbers[1] != numbers[2]


@pytest.mark.parametrize(
    ("credit", "other"),
    [
        ("Simon and Garfunkel", "Garfield"),
        ("Earth Wind and Fire", "Fire and Ice"),
        ("Brandy", "Andy"),
        ("Wanda", "W"),
        ("Barbra Streisand and Donna Summer", "Peter Tosh and Mick Jagger"),
        ("!!!", "+/-"),
        ("A feature", "A"),
        ("Ann & Bob", "Ann & Cleo"),
        ("feat. Bob", "feat. Cleo"),
    ],
)
def test_artists_that_share_no_credit_are_different_groups(credit: str, other: str) -> None:
    numbers = artist_groups([a_track("1", credit), a_track("2", other)])
    assert numbers is not None and numbers[0] != numbers[1]


ARTISTS = ("Ann", "Bob", "Cleo", "Earth, Wind & Fire", "Simon and Garfunkel", "D.J. Ö")
CREDITS = st.lists(st.sampled_from(ARTISTS), max_size=3, unique=True)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(CREDITS, st.sampled_from([", ", " & ", " and ", " feat. "]), st.booleans()), max_size=12))
def test_no_group_has_an_artist_of_another(credits: list[tuple[list[str], str, bool]]) -> None:
    tracks = [
        a_track(str(place), (joint.join(names).upper().replace(".", "") if loud else joint.join(names)) or None)
        for place, (names, joint, loud) in enumerate(credits)
    ]
    numbers = artist_groups(tracks)
    if numbers is None:
        assert not any(names for names, _, _ in credits)
        return
    alone = {names[0] for names, _, _ in credits if len(names) == 1}
    for artist in alone:
        of = {int(number) for number, (names, _, _) in zip(numbers, credits, strict=True) if artist in names}
        assert len(of) == 1, f"{artist} is in several groups"
    for number in set(numbers.tolist()):
        inside = [names for own, (names, _, _) in zip(numbers, credits, strict=True) if own == number]
        assert len(inside) == 1 or all(inside), "a track of an unknown artist is a group of its own"
        assert len(inside) == 1 or all(
            any(set(names) & set(other) for other in inside[:place] + inside[place + 1 :])
            for place, names in enumerate(inside)
        ), "nothing joins these"


def test_gtzans_artists_stay_together_whatever_their_credits() -> None:
    rows = gtzan_facts()
    tracks = [a_track(track, row["artist"] or None, row["repeats"] or None) for track, row in rows.items()]
    numbers = artist_groups(tracks)
    assert numbers is not None
    of = dict(zip(rows, numbers.tolist(), strict=True))
    for joint, alone in {
        "disco.00016": "disco.00056",
        "disco.00047": "disco.00013",
        "reggae.00093": "reggae.00092",
        "reggae.00087": "reggae.00000",
        "pop.00012": "country.00005",
    }.items():
        assert of[joint] == of[alone], (rows[joint]["artist"], rows[alone]["artist"])
    genres = [track.partition(".")[0] for track in rows]
    for fold in folds.artist(folds.Facts(genres, numbers), k=5, seed=0):
        assert not set(numbers[fold.train]) & set(numbers[fold.test])


def test_copies_of_one_recording_are_counted_whoever_plays() -> None:
    tracks = [a_track("1", "A"), a_track("2", "A"), a_track("3", repeats="1"), a_track("4")]
    numbers = recordings(tracks, [(1, 3)])
    assert numbers[0] == numbers[2] != numbers[1] == numbers[3]


def test_pairs_that_were_found_join_groups() -> None:
    numbers = artist_groups([a_track("1", "A"), a_track("2"), a_track("3", "A"), a_track("4")], [(0, 1)])
    assert numbers is not None and len({*numbers[:3]}) == 1 and numbers[3] != numbers[0]


def test_without_a_known_artist_there_are_no_groups() -> None:
    assert artist_groups([a_track("1"), a_track("2", repeats="1")]) is None
