//! The tables of the sandbox world: lands and their facts, word lists, advice, story parts.
//!
//! They are fixed, not drawn: [`gold`](super::gold::gold) is a function of the text alone, whatever the seed. What is
//! not here: how prompts are phrased (`task`) and who answers them (`generators`).

use crate::base::rng;
use rand_chacha::ChaCha8Rng;

/// A land: its name, then one value for each of [`ATTRIBUTES`].
pub struct Land {
    pub name: &'static str,
    pub values: [&'static str; 4],
}

/// A kind of fact, with three ways to state it (compact, plain, wordy). `{l}` is the land, `{v}` the value.
pub struct Attribute {
    /// What a prompt calls it: "the capital".
    pub name: &'static str,
    pub statements: [&'static str; 3],
}

pub const ATTRIBUTES: [Attribute; 4] = [
    Attribute {
        name: "capital",
        statements: [
            "Capital: {v}.",
            "The capital of {l} is {v}.",
            "The city that serves as the capital of the land of {l} is the city called {v}.",
        ],
    },
    Attribute {
        name: "main river",
        statements: [
            "River: {v}.",
            "The main river of {l} is the {v}.",
            "The river that flows through most of the land of {l} is the river known as the {v}.",
        ],
    },
    Attribute {
        name: "main export",
        statements: [
            "Export: {v}.",
            "The main export of {l} is {v}.",
            "The thing that the land of {l} sells most of all to other lands is {v}.",
        ],
    },
    Attribute {
        name: "national animal",
        statements: [
            "Animal: {v}.",
            "The national animal of {l} is the {v}.",
            "The animal that stands on the flag of the land of {l} is, as it happens, the {v}.",
        ],
    },
];

const fn land(name: &'static str, values: [&'static str; 4]) -> Land {
    Land { name, values }
}

pub const LANDS: [Land; 24] = [
    land("Velmora", ["Tarsk", "Ilven", "salt", "heron"]),
    land("Ostrava", ["Quill", "Bram", "copper", "otter"]),
    land("Dunmere", ["Hesk", "Sorrow", "wool", "badger"]),
    land("Kestria", ["Polun", "Narrow", "tea", "falcon"]),
    land("Brathe", ["Wick", "Amber", "silk", "lynx"]),
    land("Orland", ["Mossa", "Tide", "glass", "heron"]),
    land("Pellan", ["Grent", "Loam", "timber", "otter"]),
    land("Sundrey", ["Fallow", "Ister", "honey", "badger"]),
    land("Thurne", ["Calder", "Wend", "salt", "falcon"]),
    land("Ysmar", ["Dorel", "Pike", "copper", "lynx"]),
    land("Halden", ["Rook", "Sable", "wool", "heron"]),
    land("Jorvia", ["Stell", "Urn", "tea", "otter"]),
    land("Lannoch", ["Bexley", "Oxen", "silk", "badger"]),
    land("Mirre", ["Tolva", "Reed", "glass", "falcon"]),
    land("Nordane", ["Hythe", "Elk", "timber", "lynx"]),
    land("Quenby", ["Zarn", "Flint", "honey", "heron"]),
    land("Rosken", ["Ebbin", "Crane", "salt", "otter"]),
    land("Sarlo", ["Vint", "Dusk", "copper", "badger"]),
    land("Tamsin", ["Ulric", "Gale", "wool", "falcon"]),
    land("Umberia", ["Kelp", "Marl", "tea", "lynx"]),
    land("Wexmoor", ["Jasp", "Birch", "silk", "heron"]),
    land("Arden", ["Lorne", "Mist", "glass", "otter"]),
    land("Cavell", ["Nessa", "Thorn", "timber", "badger"]),
    land("Fenwick", ["Opal", "Swift", "honey", "falcon"]),
];

/// Lists that a prompt may ask for: the plural name and its ten members. No word is in two lists.
pub const CATEGORIES: [(&str, [&str; 10]); 6] = [
    ("fruits", ["apple", "pear", "plum", "cherry", "grape", "lemon", "mango", "peach", "fig", "melon"]),
    ("tools", ["hammer", "saw", "drill", "pliers", "wrench", "chisel", "file", "axe", "shovel", "rake"]),
    ("colours", ["red", "blue", "green", "yellow", "purple", "orange", "brown", "pink", "white", "black"]),
    ("metals", ["iron", "gold", "silver", "tin", "lead", "zinc", "nickel", "steel", "brass", "bronze"]),
    (
        "instruments",
        ["piano", "violin", "flute", "drum", "guitar", "harp", "trumpet", "cello", "oboe", "banjo"],
    ),
    (
        "vegetables",
        ["carrot", "onion", "potato", "leek", "bean", "pea", "cabbage", "turnip", "celery", "radish"],
    ),
];

/// Words for the copying tasks.
pub const WORDS: [&str; 20] = [
    "lamp", "stone", "cloud", "river", "table", "garden", "window", "bread", "horse", "candle", "mirror",
    "basket", "feather", "island", "engine", "pocket", "ladder", "needle", "violet", "anchor",
];

/// A piece of advice: the word that it is recognised by, and the clause ("keep a regular bedtime").
pub type Tip = (&'static str, &'static str);

/// A subject of advice: five good tips and two bad ones.
pub struct Topic {
    pub name: &'static str,
    pub good: [Tip; 5],
    pub bad: [Tip; 2],
}

pub const TOPICS: [Topic; 8] = [
    Topic {
        name: "sleep better",
        good: [
            ("bedtime", "keep a regular bedtime"),
            ("dark", "make the room dark"),
            ("screens", "put away screens early"),
            ("cool", "keep the air cool"),
            ("walk", "take a walk in the day"),
        ],
        bad: [("coffee", "drink coffee at night"), ("loud", "play loud music in bed")],
    },
    Topic {
        name: "learn a language",
        good: [
            ("daily", "practise daily"),
            ("songs", "listen to songs"),
            ("speak", "speak with friends"),
            ("cards", "use cards for new words"),
            ("books", "read easy books"),
        ],
        bad: [("silent", "stay silent until perfect"), ("once", "study only once a month")],
    },
    Topic {
        name: "save money",
        good: [
            ("budget", "write a budget"),
            ("cook", "cook at home"),
            ("compare", "compare prices"),
            ("automatic", "set an automatic transfer"),
            ("repair", "repair old things"),
        ],
        bad: [("lottery", "buy lottery tickets"), ("loans", "take loans for toys")],
    },
    Topic {
        name: "grow tomatoes",
        good: [
            ("sun", "choose a place in the sun"),
            ("water", "water at the roots"),
            ("stakes", "tie the stems to stakes"),
            ("compost", "feed them compost"),
            ("prune", "prune the side shoots"),
        ],
        bad: [("shade", "plant them in deep shade"), ("freeze", "let the roots freeze")],
    },
    Topic {
        name: "prepare for an exam",
        good: [
            ("plan", "make a study plan"),
            ("tests", "take old tests"),
            ("notes", "review your notes"),
            ("breaks", "take short breaks"),
            ("rest", "rest the night before"),
        ],
        bad: [("cheat", "cheat from a neighbour"), ("skip", "skip the hard parts")],
    },
    Topic {
        name: "start running",
        good: [
            ("shoes", "buy good shoes"),
            ("slow", "begin at a slow pace"),
            ("stretch", "stretch after each run"),
            ("goal", "set a small goal"),
            ("partner", "find a partner"),
        ],
        bad: [("pain", "ignore any pain"), ("sprint", "sprint the whole way")],
    },
    Topic {
        name: "keep a tidy room",
        good: [
            ("boxes", "sort things into boxes"),
            ("floor", "clear the floor each evening"),
            ("donate", "donate what you do not use"),
            ("dust", "dust the shelves"),
            ("hooks", "hang clothes on hooks"),
        ],
        bad: [("hide", "hide it all under the bed"), ("pile", "pile plates on the desk")],
    },
    Topic {
        name: "bake bread",
        good: [
            ("flour", "weigh the flour"),
            ("knead", "knead the dough well"),
            ("rise", "let it rise for an hour"),
            ("oven", "heat the oven first"),
            ("crust", "spray the crust with water"),
        ],
        bad: [("raw", "serve it raw"), ("sand", "mix in some sand")],
    },
];

pub const HEROES: [&str; 10] = ["Mia", "Theo", "Ada", "Omar", "Lena", "Ravi", "Zoe", "Ivan", "Nora", "Kofi"];
pub const THINGS: [&str; 12] = [
    "lantern", "map", "kite", "whistle", "compass", "ring", "drum", "clock", "boat", "book", "coin", "shell",
];
pub const PLACES: [&str; 10] =
    ["forest", "harbour", "desert", "library", "valley", "market", "castle", "swamp", "mountain", "village"];

/// The three parts of a story: the words that mark each, and its three wordings. `{h}`, `{t}`, `{p}` are the hero, the
/// thing and the place.
pub const STORY_PARTS: [(&str, [&str; 3]); 3] = [
    (
        "one day",
        [
            "One day {h} found a {t} in the {p}.",
            "One day {h} went for a walk in the {p} and found a {t}.",
            "One day, when the sky was clear and the wind was warm, {h} went to the {p} and there, in the grass, was a {t}.",
        ],
    ),
    (
        "but then",
        [
            "But then it was lost.",
            "But then a storm came and the way home was lost.",
            "But then, all of a sudden, a great storm came over the hills and the way back home was lost in the rain.",
        ],
    ),
    (
        "in the end",
        [
            "In the end all was well.",
            "In the end {h} came home and all was well.",
            "In the end, after a long and hard night, {h} came back home with the {t} and all was well again.",
        ],
    ),
];

/// One element of a non-empty table.
pub fn pick<'a, T>(rng: &mut ChaCha8Rng, table: &'a [T]) -> &'a T {
    &table[rng::below(rng, table.len())]
}

/// `count` distinct indices below `of`, in random order.
pub fn sample(rng: &mut ChaCha8Rng, of: usize, count: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..of).collect();
    rng::shuffle(rng, &mut indices);
    indices.truncate(count);
    indices
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_tables_are_unambiguous() {
        let members: Vec<&str> = CATEGORIES.iter().flat_map(|(_, members)| *members).collect();
        assert_eq!(members.iter().collect::<HashSet<_>>().len(), members.len());
        // Capitals and rivers are told apart by the word alone.
        let cities: HashSet<&str> = LANDS.iter().map(|l| l.values[0]).collect();
        let rivers: HashSet<&str> = LANDS.iter().map(|l| l.values[1]).collect();
        assert_eq!((cities.len(), rivers.len()), (LANDS.len(), LANDS.len()));
        assert!(cities.is_disjoint(&rivers));
        // A tip is recognised by its word, and by no other tip of the same topic.
        for topic in &TOPICS {
            let tips: Vec<&Tip> = topic.good.iter().chain(&topic.bad).collect();
            for (i, (word, _)) in tips.iter().enumerate() {
                let within: Vec<usize> =
                    (0..tips.len()).filter(|&j| tips[j].1.split(' ').any(|w| w == *word)).collect();
                assert_eq!(within, [i], "{word}");
                assert!(!topic.name.split(' ').any(|w| w == *word), "{word} is in the prompt");
            }
        }
    }
}
