"""An edit benchmark out of one's own questions or captions, as MMEdit's was made: errors, rewordings, other pictures,
and questions that must keep their answers."""
