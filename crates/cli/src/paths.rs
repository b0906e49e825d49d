//! Expands paths in options, since a shell does not expand `--out=~/x` and `--out '$SCRATCH/x'`.

use clap::{Command, builder::ValueParser};
use diffusion::settings::paths::expanded;
use std::path::Path;

/// Makes a command expand `~` and variables in every value that is a path.
pub fn expanding(mut command: Command) -> Command {
    let plain = ValueParser::path_buf();
    // arguments with a parser of their own expand their paths themselves; only the parser's name shows the difference
    let is_path = |arg: &clap::Arg| format!("{:?}", arg.get_value_parser()) == format!("{plain:?}");
    let paths: Vec<_> = command.get_arguments().filter(|arg| is_path(arg)).map(|arg| arg.get_id().clone()).collect();
    for id in paths {
        command = command.mut_arg(id, |arg| arg.value_parser(|text: &str| expanded(Path::new(text))));
    }
    let verbs: Vec<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    verbs.into_iter().fold(command, |command, verb| command.mut_subcommand(verb, expanding))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Verb};
    use clap::{CommandFactory, FromArgMatches};

    #[test]
    fn every_path_of_a_verb() {
        let home = std::env::var("HOME").unwrap();
        let line = "comat generate --model ~/m --prompts $HOME/p.txt --out=~/o --lora ${HOME}/l --prompt ~/not-a-path";
        let matches = expanding(Args::command()).try_get_matches_from(line.split(' ')).unwrap();
        let Verb::Generate(args) = Args::from_arg_matches(&matches).unwrap().verb else { panic!() };
        let of = |name: &str| Path::new(&home).join(name);
        let lora = args.source.lora[0].adapter.to_path_buf();
        assert_eq!((args.out, args.prompts.unwrap(), lora), (of("o"), of("p.txt"), of("l")));
        assert_eq!((args.source.model.typed(), args.prompt[0].as_str()), (of("m").as_path(), "~/not-a-path"));
        let error =
            expanding(Args::command()).try_get_matches_from(["comat", "report", "$COMAT_NOT_SET/x", "--out", "y"]);
        assert!(error.unwrap_err().to_string().contains("the variable COMAT_NOT_SET is not set"));
    }
}
