use clap::Parser;

#[derive(Parser)]
enum Command {
    #[command(hide = true)]
    SfuServer(roomful::sfu::server::ServerArgs),
    #[command(hide = true)]
    Director(roomful::sfu::director::DirectorArgs),
    Fleet(roomful::cli::fleet::FleetArgs),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::SfuServer(args) => roomful::sfu::server::run(args),
        Command::Director(args) => roomful::sfu::director::run(args),
        Command::Fleet(args) => roomful::cli::fleet::run(&args),
    }
}
